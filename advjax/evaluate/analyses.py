"""Questions about networks beyond their accuracy, each one function of arrays: what the papers claim, made measurable.

    gradient_norms(...)          SGLR: examples with wrong labels pull harder, and refined labels take that pull away
    memory_agreement(...)        SGLR: whose label a memory of predictions takes an example for
    prediction_entropies(...)    B-MTARD, SAAD: how much a teacher says beyond a label, clean and under attack
    transfer_matrix(...)         MAT: what examples crafted on one peer do to another

`advjax.runs.analyses` asks them of finished runs, `advjax.runs.figures` draws the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax import compiling, losses
from advjax.data import to_float
from advjax.errors import InputError
from advjax.evaluate.protocols import LogitsFn

Array = np.ndarray | jax.Array
Apply = Callable[[Any, jax.Array], jax.Array]


def _batches(function: Callable[..., jax.Array], arrays: tuple[Array, ...], batch_size: int) -> np.ndarray:
    """A function of batches over arrays [N, ...] of any length, always on whole batches, so that it compiles once."""
    count, made = len(arrays[0]), []
    if {len(array) for array in arrays} != {count} or count == 0:
        raise InputError(
            f"must have as many images as targets, at least one, they have {[len(a) for a in arrays]}", "images"
        )
    for begin in range(0, count, batch_size):
        rows = np.minimum(np.arange(begin, begin + batch_size), count - 1)
        made.append(np.asarray(function(*(jnp.asarray(array[rows]) for array in arrays)))[: count - begin])
    return np.concatenate(made)


def _floats(images: jax.Array) -> jax.Array:
    return to_float(images) if images.dtype == jnp.uint8 else images


def gradient_norms(apply: Apply, params: Any, images: Array, targets: Array, *, batch_size: int = 32) -> np.ndarray:
    """Norm of every example's own gradient of the cross-entropy in the parameters.

    Args:
        apply: `(params, images [B, ...]) -> logits [B, K]`, evaluation mode.
        params: a pytree of parameters.
        images: [N, ...] as `apply` takes them, uint8 or float; adversarial ones for the gradient of adversarial training.
        targets: labels [N], or probabilities [N, K], such as a memory of predictions.
        batch_size: examples at a time, each of which holds a gradient of all parameters.

    Returns:
        [N].

    Examples:
        >>> weights = jnp.array([[1.0, -1.0]])  # p = sigmoid(2 x) for class 0; d CE / d w = x (p - onehot)
        >>> gradient_norms(lambda w, x: x @ w, weights, np.array([[0.0], [3.0]]), np.array([0, 1])).round(2)
        array([0.  , 4.23], dtype=float32)
    """

    def norm(weights: Any, image: jax.Array, target: jax.Array) -> jax.Array:
        def loss(w: Any) -> jax.Array:
            return losses.cross_entropy(apply(w, _floats(image[None])), target[None])[0]

        return optax.tree.norm(jax.grad(loss)(weights))

    program = compiling.jit(jax.vmap(norm, (None, 0, 0)))
    return _batches(lambda *arrays: program(params, *arrays), (images, targets), batch_size)


class Agreement(NamedTuple):
    """Shares of examples, 0..1; NaN where there is no such example.

    Attributes:
        clean: with a right label, that the memory takes for it.
        fitted: with a wrong label, that the memory takes for it: the noise is learnt by heart.
        corrected: with a wrong label, that the memory takes for the right one.
    """

    clean: float
    fitted: float
    corrected: float


def memory_agreement(memory: Array, given: Array, true: Array) -> Agreement:
    """Which label a memory of predictions takes examples for, those with right and those with wrong labels apart.

    Args:
        memory: probabilities [N, K], as SGLR and TE remember them.
        given: labels [N] of the training.
        true: labels [N] before noise was injected.

    Examples:
        >>> memory = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6]])
        >>> memory_agreement(memory, given=np.array([0, 0, 2]), true=np.array([0, 1, 1]))
        Agreement(clean=1.0, fitted=0.5, corrected=0.5)
    """
    taken, given, true = np.argmax(memory, -1), np.asarray(given), np.asarray(true)
    wrong = given != true

    def share(hits: np.ndarray, among: np.ndarray) -> float:
        return float(hits[among].mean()) if among.any() else float("nan")

    return Agreement(share(taken == given, ~wrong), share(taken == given, wrong), share(taken == true, wrong))


def prediction_entropies(
    logits_fn: LogitsFn, images: Array, *, temperature: float = 1.0, batch_size: int = 256
) -> np.ndarray:
    """Entropy of every prediction in nats, 0 (a label) to log K (nothing).

    Args:
        logits_fn: evaluation mode.
        images: [N, H, W, C] uint8 or float in [0, 1], clean or adversarial.
        temperature: of the softmax.
        batch_size: images at a time.

    Returns:
        [N].

    Examples:
        >>> prediction_entropies(lambda x: x[:, 0, 0], np.zeros((1, 1, 1, 2), np.float32))  # log 2
        array([0.693], dtype=float32)
    """
    program = compiling.jit(lambda x: losses.entropy(logits_fn(_floats(x)), temperature))
    return _batches(program, (images,), batch_size)


def transfer_matrix(
    networks: Mapping[str, LogitsFn],
    craft: Callable[[LogitsFn, jax.Array, jax.Array, jax.Array], jax.Array],
    images: Array,
    labels: Array,
    *,
    batch_size: int = 256,
) -> np.ndarray:
    """Accuracy of every network on what was crafted on every network.

    Args:
        networks: name -> evaluation-mode function.
        craft: `(logits_fn, images, labels, ids) -> adversarial images`, such as PGD; ids are the rows.
        images: [N, H, W, C] uint8 or float in [0, 1].
        labels: [N].
        batch_size: images at a time.

    Returns:
        [K, K]: row i has the examples of network i, column j the accuracy of network j on them; white box on the diagonal.
    """
    rows = np.arange(len(labels), dtype=np.int32)

    def right_of(source: LogitsFn) -> Callable[..., jax.Array]:
        def right(x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
            adversarial = craft(source, _floats(x), y, ids)
            return jnp.stack([losses.correct(f(adversarial), y) for f in networks.values()], -1)

        return compiling.jit(right)

    return np.stack(
        [_batches(right_of(f), (images, labels, rows), batch_size).astype(float).mean(0) for f in networks.values()]
    )
