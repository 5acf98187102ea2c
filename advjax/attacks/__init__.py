"""Attacks on any `logits_fn`: images [B, H, W, C] in [0, 1] to logits [B, K]."""

from advjax.attacks.pgd import maximize, objective_of, pgd

__all__ = ["maximize", "objective_of", "pgd"]
