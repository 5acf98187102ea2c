"""Losses and attack objectives, one value per example; the caller takes the mean.

Logits are [B, K] and are cast to float32. A target is either integer labels [B] or class probabilities [B, K].
`KL(q || p) = sum q (log q - log p)`.

Shapes that would be broadcast in silence are an `InputError`, also inside `jit`, where the check costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from advjax.errors import InputError, unknown

Objective = Callable[[jax.Array, jax.Array], jax.Array]


def _check_labels(logits: jax.Array, label: jax.Array) -> None:
    if label.shape != logits.shape[:-1] or not jnp.issubdtype(label.dtype, jnp.integer):
        raise InputError(
            f"labels must be integers of shape {logits.shape[:-1]}, as the logits {logits.shape} have it; they are "
            f"{label.dtype} of shape {label.shape}"
        )


def _check_same(one: jax.Array, other: jax.Array) -> None:
    if one.shape != other.shape:
        raise InputError(
            f"logits and what they are compared with must have one shape, they have {one.shape}, {other.shape}"
        )


def _check_temperature(temperature: float | jax.Array) -> None:
    if isinstance(temperature, (int, float)) and not temperature > 0:
        raise InputError(f"a temperature must be above 0, it is {temperature}")


def cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Cross-entropy of softmax(logits) [B, K] against labels [B] or probabilities [B, K]; -> [B].

    Examples:
        >>> cross_entropy(jnp.array([[0.0, jnp.log(3.0)]]), jnp.array([1]))  # -log(3/4)
        Array([0.2877], dtype=float32)
        >>> cross_entropy(jnp.zeros((1, 4)), jnp.array([[0.5, 0.5, 0.0, 0.0]]))  # log 4
        Array([1.3863], dtype=float32)
    """
    logits = logits.astype(jnp.float32)
    if target.ndim == logits.ndim and not jnp.issubdtype(target.dtype, jnp.integer):
        _check_same(logits, target)
        return optax.softmax_cross_entropy(logits, target)
    _check_labels(logits, target)
    return optax.softmax_cross_entropy_with_integer_labels(logits, target)


def smooth_labels(target: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """Labels [B] or probabilities [B, K] that keep 1 - smoothing of themselves and spread the rest over all classes.

    Returns:
        Probabilities [B, K]; `target` itself where `smoothing` is 0.

    Examples:
        >>> smooth_labels(jnp.array([1]), 4, 0.2).tolist()
        [[0.05, 0.85, 0.05, 0.05]]
    """
    if not 0 <= smoothing <= 1:
        raise InputError(f"smoothing must be from 0 to 1, it is {smoothing}")
    if not smoothing:
        return target
    return optax.smooth_labels(target if target.ndim == 2 else jax.nn.one_hot(target, num_classes), smoothing)


def kl(q_logits: jax.Array, p_logits: jax.Array, temperature: float | jax.Array = 1.0) -> jax.Array:
    """KL(softmax(q/T) || softmax(p/T)), gradient through both arguments; [B, K] x 2 -> [B].

    Multiply by T^2 where gradients should not shrink with the temperature (Hinton et al. 2015).

    Examples:
        >>> q = jnp.log(jnp.array([[0.5, 0.5]]))
        >>> kl(q, jnp.zeros((1, 2)))  # the same distribution
        Array([0.], dtype=float32)
        >>> kl(q, jnp.log(jnp.array([[0.25, 0.75]])))
        Array([0.1438], dtype=float32)
    """
    _check_same(q_logits, p_logits)
    _check_temperature(temperature)
    log_q = jax.nn.log_softmax(q_logits.astype(jnp.float32) / temperature)
    log_p = jax.nn.log_softmax(p_logits.astype(jnp.float32) / temperature)
    return jnp.sum(jnp.exp(log_q) * (log_q - log_p), -1)


def kl_probabilities(q: jax.Array, logits: jax.Array, floor: float = 0.0) -> jax.Array:
    """KL(q || softmax(logits)) to given probabilities q [B, K]; -> [B].

    With `floor` > 0: sum q (log(q + floor) - log p), as RSLAD and MTARD compute it (1e-5).

    Examples:
        >>> kl_probabilities(jnp.array([[1.0, 0.0]]), jnp.zeros((1, 2)))  # log 2; 0 log 0 is 0
        Array([0.6931], dtype=float32)
    """
    _check_same(logits, q)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    log_q = jnp.log(q + floor) if floor else jnp.log(jnp.where(q > 0, q, 1.0))
    return jnp.sum(q * (log_q - log_p), -1)


def entropy(logits: jax.Array, temperature: float | jax.Array = 1.0) -> jax.Array:
    """Entropy of softmax(logits / T) in nats; [B, K] -> [B].

    Examples:
        >>> entropy(jnp.zeros((1, 4)))  # log 4
        Array([1.3863], dtype=float32)
    """
    _check_temperature(temperature)
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)
    return -jnp.sum(jnp.exp(log_p) * log_p, -1)


def renyi_entropy(logits: jax.Array, order: float) -> jax.Array:
    """Renyi entropy log(sum p^order)/(1 - order) of p = softmax(logits), in nats; at order 1 Shannon's; [B, K] -> [B]."""
    if order == 1:
        return entropy(logits)
    return jax.nn.logsumexp(order * jax.nn.log_softmax(logits.astype(jnp.float32)), -1) / (1 - order)


def best_other(logits: jax.Array, label: jax.Array) -> jax.Array:
    """The largest value among the classes other than `label` [B]; [B, K] -> [B].

    Examples:
        >>> best_other(jnp.array([[2.0, 1.0, 0.0]]), jnp.array([0]))
        Array([1.], dtype=float32)
    """
    _check_labels(logits, label)
    own = jnp.arange(logits.shape[-1]) == label[:, None]
    return jnp.max(jnp.where(own, -jnp.inf, logits), -1)


def _own(logits: jax.Array, label: jax.Array) -> jax.Array:
    _check_labels(logits, label)
    return jnp.take_along_axis(logits, label[:, None], -1)[:, 0]


def margin(logits: jax.Array, label: jax.Array) -> jax.Array:
    """max_{k != y} z_k - z_y: positive exactly where the label has lost; [B, K], [B] -> [B].

    Examples:
        >>> margin(jnp.array([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]]), jnp.array([0, 1]))
        Array([-1.,  1.], dtype=float32)
    """
    logits = logits.astype(jnp.float32)
    return best_other(logits, label) - _own(logits, label)


def probability_margin(logits: jax.Array, label: jax.Array) -> jax.Array:
    """max_{k != y} p_k - p_y of the softmax, the probability margin that PMA maximises; [B, K], [B] -> [B]."""
    return margin(jax.nn.softmax(logits.astype(jnp.float32)), label)


def cw(logits: jax.Array, label: jax.Array, confidence: float = 50.0) -> jax.Array:
    """Carlini and Wagner's loss as CW-inf attacks maximise it: min(margin, confidence) up to a constant; -> [B].

    Computed as -max(z_y - max_{k != y} z_k + confidence, 0).

    Examples:
        >>> cw(jnp.array([[2.0, 1.0, 0.0]]), jnp.array([0]))  # margin - confidence
        Array([-51.], dtype=float32)
    """
    return -jnp.maximum(confidence - margin(logits, label), 0.0)


def dlr(logits: jax.Array, label: jax.Array) -> jax.Array:
    """Difference of logits ratio, -(z_y - max_{k != y} z_k)/(z_(1) - z_(3) + 1e-12) (Croce and Hein 2020); -> [B].

    Raises:
        InputError: fewer than three classes.

    Examples:
        >>> dlr(jnp.array([[2.0, 1.0, 0.0]]), jnp.array([0]))  # -(2 - 1)/(2 - 0)
        Array([-0.5], dtype=float32)
    """
    if logits.shape[-1] < 3:
        raise InputError(f"the DLR loss needs at least 3 classes, the logits have {logits.shape[-1]}: use 'margin'")
    logits = logits.astype(jnp.float32)
    top = jax.lax.top_k(logits, 3)[0]
    return margin(logits, label) / (top[:, 0] - top[:, 2] + 1e-12)


def dlr_targeted(logits: jax.Array, label: jax.Array, target: jax.Array) -> jax.Array:
    """Targeted DLR, -(z_y - z_t)/(z_(1) - (z_(3) + z_(4))/2 + 1e-12) (Croce and Hein 2020); `target` [B]; -> [B].

    Raises:
        InputError: fewer than four classes.

    Examples:
        >>> dlr_targeted(jnp.array([[3.0, 1.0, 0.0, 0.0]]), jnp.array([0]), jnp.array([1]))  # -(3 - 1)/3
        Array([-0.6667], dtype=float32)
    """
    if logits.shape[-1] < 4:
        raise InputError(f"the targeted DLR loss needs at least 4 classes, the logits have {logits.shape[-1]}")
    logits = logits.astype(jnp.float32)
    top = jax.lax.top_k(logits, 4)[0]
    gap = _own(logits, target) - _own(logits, label)
    return gap / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + 1e-12)


def boosted_cross_entropy(logits: jax.Array, label: jax.Array, target: jax.Array | None = None) -> jax.Array:
    """MART's BCE, CE(z, y) - log(1.0001 - p_k* + 1e-12), k* the most probable wrong class (Wang et al. 2020); -> [B].

    Args:
        logits: [B, K].
        label: true labels [B], which say what "wrong" means.
        target: what the cross-entropy is against, labels or probabilities; `label` if absent.

    Examples:
        >>> boosted_cross_entropy(jnp.zeros((1, 2)), jnp.array([0]))  # log 2 - log(1.0001 - 1/2)
        Array([1.3861], dtype=float32)
    """
    wrong = best_other(jax.nn.softmax(logits.astype(jnp.float32)), label)
    return cross_entropy(logits, label if target is None else target) - jnp.log(1.0001 - wrong + 1e-12)


def correct(logits: jax.Array, label: jax.Array) -> jax.Array:
    """1.0 where the label is the arg max, else 0.0; [B, K], [B] -> [B].

    Examples:
        >>> correct(jnp.array([[2.0, 1.0], [2.0, 1.0]]), jnp.array([0, 1]))
        Array([1., 0.], dtype=float32)
    """
    _check_labels(logits, label)
    return (jnp.argmax(logits, -1) == label).astype(jnp.float32)


def _kl_to(logits: jax.Array, target: jax.Array) -> jax.Array:
    return kl_probabilities(target, logits)


OBJECTIVES: dict[str, Objective] = {
    "ce": cross_entropy,
    "margin": margin,
    "probability_margin": probability_margin,
    "cw": cw,
    "dlr": dlr,
    "kl": _kl_to,
}


def objective(name: str | Objective) -> Objective:
    """The attack objective `(logits, target) -> [B]` of that name, or `name` itself if it is a function.

    `"ce"`, `"margin"`, `"probability_margin"`, `"cw"` and `"dlr"` take labels; `"kl"` takes fixed probabilities [B, K].

    Raises:
        InputError: no objective has that name.

    Examples:
        >>> objective("margin") is margin
        True
    """
    if callable(name):
        return name
    if not isinstance(name, str) or name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES, "objective")
    return OBJECTIVES[name]
