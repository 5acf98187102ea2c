"""Command lines from a checkout, benchmarks and evidence: only what reads `advjax`; `configs` is that of `advjax`."""
