"""What is measured behind docs/performance.md; `python -m experiments.benchmarks` runs all of it."""
