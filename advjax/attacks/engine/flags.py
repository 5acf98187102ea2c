"""Reasons not to trust a robust accuracy, as the reference implementation of AutoAttack raises them."""

from __future__ import annotations

import itertools

import numpy as np

PROBABILITIES = (
    "the network's outputs look like probabilities (all in [0, 1], sums of 1): attacks need logits, and gradients "
    "through a softmax vanish"
)
RANDOMISED = "repeated forwards of the same images differ: the network is randomised, evaluate it with version 'rand'"
ZERO_GRADIENT = (
    "{} of {} images have a zero gradient at the start of APGD under the DLR loss: gradient attacks cannot move them"
)
NON_FINITE_LOGITS = (
    "the logits of {} of {} attacked images are NaN or infinite: where nothing else broke them, they count as {}"
)
GRADIENTS = (
    "the network takes gradients while it classifies: attacks that do not follow its defence, AutoAttack among them, may "
    "be too weak"
)
CONSTANT = "the network gives the same logits for all images: is this the function that was meant?"
MASKING = (
    "Square lowered the robust accuracy by {:.2f} points below the best gradient attack: gradients are masked, and the "
    "robust accuracy is probably overestimated"
)


def are_probabilities(outputs: np.ndarray, tolerance: float = 1e-5) -> np.ndarray:
    """Whether an example's outputs all lie in [0, 1] and sum to 1, [B, K] to [B]."""
    inside = (outputs > -tolerance) & (outputs < 1 + tolerance)
    return inside.all(-1) & (np.abs(outputs.sum(-1) - 1.0) < tolerance)


def differ(forwards: list[np.ndarray], y: np.ndarray) -> bool:
    """Whether forwards of the same images, logits [B, K] each, differ: in how many are right or, normalised, by 1e-4."""
    correct = {int(np.sum(np.argmax(logits, -1) == y)) for logits in forwards}
    outputs = [logits / (np.linalg.norm(logits, axis=-1, keepdims=True) + 1e-10) for logits in forwards]
    spread = max(np.linalg.norm(a - b, axis=-1).max() for i, a in enumerate(outputs) for b in outputs[:i])
    return len(correct) > 1 or bool(spread > 1e-4)


def masking(accuracy: dict[str, float], tolerance: float = 0.002) -> str | None:
    """The warning if Square's accuracy is below the attack before it by more than 0.2 points, else None."""
    names = list(accuracy)
    for before, name in itertools.pairwise(names):
        if name.startswith("square") and before != "clean" and accuracy[before] - accuracy[name] > tolerance:
            return MASKING.format(100 * (accuracy[before] - accuracy[name]))
    return None
