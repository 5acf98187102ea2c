"""Formulae of the documentation: ```math blocks become MathML when the site is built, as GitHub shows them by itself."""

import html

from latex2mathml.converter import convert


def on_config(config):
    """Gives superfences the fence `math`."""
    fences = config["mdx_configs"].setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "math", "format": _mathml})
    return config


def _mathml(source, language, css_class, options, md, **_):
    lines = [line for line in source.replace("\\\\", "\n").split("\n") if line.strip()]
    rendered = "".join(convert(line, display="block") for line in lines)
    return f'<div class="{css_class}" role="math" aria-label="{html.escape(source)}">{rendered}</div>'
