"""Adversarial training and adversarial distillation in JAX.

`advjax.attacks` and `advjax.evaluate` take a `logits_fn` (images in [0, 1] to logits) and nothing else of this library;
`advjax.methods` are the training methods, `advjax.models` the networks, `advjax.losses` the losses.
"""

from advjax import attacks, compiling, evaluate, losses, methods, models, runs, threat, training
from advjax.errors import InputError
from advjax.models import logits_fn
from advjax.runs import load_run
from advjax.version import __version__

__all__ = [
    "InputError",
    "__version__",
    "attacks",
    "compiling",
    "evaluate",
    "load_run",
    "logits_fn",
    "losses",
    "methods",
    "models",
    "runs",
    "threat",
    "training",
]
