"""Command lines, configs, benchmarks and evidence: only what reads `advjax`."""
