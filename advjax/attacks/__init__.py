"""Attacks on any `logits_fn`: images [B, H, W, C] in [0, 1] to logits [B, K]."""

from advjax.attacks.apgd import APGDResult, apgd
from advjax.attacks.autoattack import AutoAttackResult, Stage, autoattack, cascade
from advjax.attacks.cw import CWResult, cw_l2
from advjax.attacks.engine.record import read_record
from advjax.attacks.fab import FABResult, fab
from advjax.attacks.malt import malt_targets
from advjax.attacks.pgd import fgsm, maximize, mi_fgsm, objective_of, pgd
from advjax.attacks.square import SquareResult, square

__all__ = [
    "APGDResult",
    "AutoAttackResult",
    "CWResult",
    "FABResult",
    "SquareResult",
    "Stage",
    "apgd",
    "autoattack",
    "cascade",
    "cw_l2",
    "fab",
    "fgsm",
    "malt_targets",
    "maximize",
    "mi_fgsm",
    "objective_of",
    "pgd",
    "read_record",
    "square",
]
