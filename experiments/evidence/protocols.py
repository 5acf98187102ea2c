"""Evaluations of the evidence alone, named in a config as `experiments.evidence.protocols:NAME`."""

from advjax.evaluate import Attack, protocols


def pgd100(norm: str, eps: float | str) -> tuple[Attack, ...]:
    """PGD of 20 and of 100 steps, under which MAT's abstract has its eight points."""
    return protocols.clean(norm, eps), protocols.pgd_steps(20, norm, eps), protocols.pgd_steps(100, norm, eps)
