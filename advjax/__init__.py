"""Adversarial training and adversarial distillation in JAX.

`advjax.attacks` and `advjax.evaluate` take a `logits_fn` (images in [0, 1] to logits) and nothing else of this library;
`advjax.methods` are the training methods, `advjax.models` the networks, `advjax.losses` the losses.
"""

from advjax import attacks, compiling, evaluate, losses, methods, models, threat
from advjax.errors import InputError
from advjax.models import logits_fn
from advjax.version import __version__

__all__ = [
    "InputError",
    "__version__",
    "attacks",
    "compiling",
    "evaluate",
    "logits_fn",
    "losses",
    "methods",
    "models",
    "threat",
]
