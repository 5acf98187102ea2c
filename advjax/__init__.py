"""Adversarial training and adversarial distillation in JAX.

`advjax.attacks` and `advjax.evaluate` take a `logits_fn` (images in [0, 1] to logits) and nothing else of this library;
`advjax.methods` are the training methods, `advjax.models` the networks, `advjax.losses` the losses.

Examples:
    >>> import jax, advjax
    >>> module = advjax.models.create("tiny_cnn", num_classes=3)
    >>> variables = advjax.models.init(module, jax.random.key(0), (4, 4, 1))
    >>> f = advjax.logits_fn(module, variables)  # or any other function: images in [0, 1] -> logits
    >>> x, y = jax.numpy.full((2, 4, 4, 1), 0.5), jax.numpy.array([0, 1])
    >>> x_adv = advjax.attacks.pgd(f, jax.random.key(1), x, y, norm="linf", eps=0.1, step_size=0.05, steps=2)
    >>> advjax.threat.norm(x_adv - x, "linf")
    Array([0.1, 0.1], dtype=float32)
"""

from advjax import attacks, compiling, evaluate, losses, methods, models, runs, threat, training
from advjax.errors import InputError
from advjax.models import load_teacher, logits_fn
from advjax.runs import load_run
from advjax.version import __version__

__all__ = [
    "InputError",
    "__version__",
    "attacks",
    "compiling",
    "evaluate",
    "load_run",
    "load_teacher",
    "logits_fn",
    "losses",
    "methods",
    "models",
    "runs",
    "threat",
    "training",
]
