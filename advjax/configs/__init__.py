"""A config per method: `get_config(variant)` with the recipe, `VARIANTS` with what data sets and options change."""
