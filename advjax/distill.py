"""The mechanisms of the distillation papers as functions of plain arrays, useful without the rest of the library.

Shapes that would be broadcast in silence are an AssertionError, also inside `jit`, where the check costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from advjax import losses
from advjax.errors import InputError


def _check_share(value: float, name: str) -> None:
    if isinstance(value, (int, float)) and not 0 <= value <= 1:
        raise InputError(f"{name} must be from 0 to 1, it is {value}")


def dropped(
    rate: float, epoch: jax.typing.ArrayLike, epochs: int, milestones: Sequence[float], factor: float = 0.1
) -> jax.Array:
    """A rate that falls in the course of a run, as a piecewise learning rate does.

    Args:
        rate: its value at the start.
        epoch: epochs done, possibly traced.
        epochs: length of the run.
        milestones: fractions of the run after which it drops, each rounded to a whole epoch.
        factor: what every drop multiplies it with.

    Returns:
        A scalar, `rate * factor ** (milestones passed)`.

    Examples:
        >>> [round(float(dropped(0.1, epoch, 30, (1 / 3, 2 / 3))), 4) for epoch in (9, 10, 20)]
        [0.1, 0.01, 0.001]
    """
    after = jnp.asarray([round(milestone * epochs) for milestone in milestones], jnp.float32)
    return rate * factor ** jnp.sum(epoch >= after)


def balance_temperatures(
    temperatures: jax.Array, entropies: jax.Array, rate: jax.typing.ArrayLike, low: float = 1.0, high: float = 10.0
) -> jax.Array:
    """B-MTARD's entropy-based balance: the teacher of the higher entropy is sharpened, the other one softened.

        tau_k <- clip(tau_k - rate sign(H_k - H_other), low, high),    sign(0) = 0

    Args:
        temperatures: [2], of the two teachers.
        entropies: [2], mean entropy of each teacher's tempered softmax; only which is larger matters.
        rate: what a temperature moves by.
        low: smallest temperature.
        high: largest temperature.

    Returns:
        The new temperatures [2].

    Examples:
        >>> balance_temperatures(jnp.array([2.0, 3.0]), jnp.array([0.5, 0.2]), 0.1)
        Array([1.9, 3.1], dtype=float32)
    """
    chex.assert_shape([temperatures, entropies], (2,))
    return jnp.clip(temperatures - rate * jnp.sign(entropies - entropies[::-1]), low, high)


def balance_losses(
    weights: jax.Array, values: jax.Array, first: jax.Array, rate: jax.typing.ArrayLike, gamma: float = 1.0
) -> jax.Array:
    """B-MTARD's normalised loss balance: the loss that has fallen less, relative to its start, gets more weight.

        l_k = L_k / L_k(first),    share_k = l_k^gamma / sum_j l_j^gamma,    w_k <- (1 - rate) w_k + rate share_k

    Args:
        weights: [k], non-negative, of sum 1.
        values: the losses [k], non-negative.
        first: the same losses at the first mini-batch [k].
        rate: how fast the weights move.
        gamma: how much the slower loss is preferred.

    Returns:
        The new weights [k], clipped at 0 and of sum 1. Losses that are all zero leave equal shares.

    Examples:
        >>> balance_losses(jnp.array([0.5, 0.5]), jnp.array([3.0, 1.0]), jnp.array([4.0, 4.0]), 0.1).tolist()
        [0.525, 0.475]
    """
    chex.assert_rank(weights, 1)
    chex.assert_equal_shape([weights, values, first])
    tiny = jnp.finfo(jnp.float32).tiny
    relative = (values / jnp.maximum(first, tiny)) ** gamma
    share = jnp.where(jnp.sum(relative) > 0, relative / jnp.maximum(jnp.sum(relative), tiny), 1.0 / len(weights))
    new = jnp.maximum((1.0 - rate) * weights + rate * share, 0.0)
    return new / jnp.sum(new)


def floored_kl(teacher: jax.Array, student: jax.Array, temperature: jax.typing.ArrayLike = 1.0) -> jax.Array:
    """KL to a teacher as RSLAD, MTARD and their descendants compute it; no gradient reaches the teacher.

        sum_k q (log(q + 1e-5) - log p),    q = softmax(teacher/T),  p = softmax(student)

    Args:
        teacher: logits [B, K].
        student: logits [B, K].
        temperature: T, the teacher's alone.

    Returns:
        [B].
    """
    q = jax.lax.stop_gradient(jax.nn.softmax(teacher.astype(jnp.float32) / temperature))
    return losses.kl_probabilities(q, student, floor=1e-5)


def gradient_matching(
    teacher_ahead: jax.Array, teacher_behind: jax.Array, ahead: jax.Array, behind: jax.Array
) -> jax.Array:
    """IGDM's indirect matching of the logits' input gradients; no gradient reaches the teacher.

        KL(softmax(T(x + d) - T(x - d)) || softmax(S(x + d) - S(x - d)))

    Args:
        teacher_ahead: logits T(x + d) [B, K].
        teacher_behind: logits T(x - d) [B, K].
        ahead: logits S(x + d) [B, K].
        behind: logits S(x - d) [B, K].

    Returns:
        [B].
    """
    return losses.kl(jax.lax.stop_gradient(teacher_ahead - teacher_behind), ahead - behind)


def peer_distillation(logits: jax.Array, peers: Sequence[jax.Array], temperature: float = 1.0) -> jax.Array:
    """Deep mutual learning's term: T^2 KL(sg p_j^T || p^T), mean over the peers j; no gradient reaches them.

    Args:
        logits: of the learner, [B, K].
        peers: logits of each network that it learns from, [B, K], at least one.
        temperature: T.

    Returns:
        [B].

    Examples:
        >>> peer_distillation(jnp.zeros((1, 2)), [jnp.log(jnp.array([[0.25, 0.75]]))])
        Array([0.1308], dtype=float32)
    """
    if not peers:
        raise InputError("peers must be at least one")
    chex.assert_equal_shape([logits, *peers])
    terms = [losses.kl(jax.lax.stop_gradient(peer), logits, temperature) for peer in peers]
    return temperature**2 * sum(terms[1:], terms[0]) / len(terms)


def disagreement(logits: Sequence[jax.Array]) -> jax.Array:
    """Share of the pairs among several networks that predict different classes; two or more [B, K] -> [B].

    Examples:
        >>> disagreement([jnp.eye(2), jnp.eye(2), jnp.eye(2)[::-1]]).tolist()  # two of three pairs
        [0.667, 0.667]
    """
    if len(logits) < 2:
        raise InputError(f"a disagreement is between two networks or more, there are logits of {len(logits)}")
    chex.assert_equal_shape(logits)
    predicted = jnp.stack([jnp.argmax(z, -1) for z in logits])
    differ = (predicted[:, None] != predicted[None, :]).astype(jnp.float32)
    return jnp.sum(differ, (0, 1)) / (len(logits) * (len(logits) - 1))


def dynamic_labels(logits: jax.Array) -> jax.Array:
    """DYNAT's labels, the guide's arg max without gradient; [B, K] -> int32 [B].

    Examples:
        >>> dynamic_labels(jnp.array([[0.0, 2.0, 1.0]]))
        Array([1], dtype=int32)
    """
    return jnp.argmax(jax.lax.stop_gradient(logits), -1).astype(jnp.int32)


def label_memory(labels: jax.typing.ArrayLike, num_classes: int) -> jax.Array:
    """The memory that SGLR starts with: labels [N] one-hot, float32 [N, K], a row per training example.

    Examples:
        >>> label_memory([1, 0], 3).tolist()
        [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    """
    if not isinstance(labels, jax.core.Tracer) and (wrong := set(np.ravel(labels).tolist()) - set(range(num_classes))):
        raise InputError(f"labels must be from 0 to {num_classes - 1}, one of them is {min(wrong)}")
    return jax.nn.one_hot(jnp.asarray(labels), num_classes, dtype=jnp.float32)


def refine_labels(
    clean_logits: jax.Array, adversarial_logits: jax.Array, clean_weight: float = 0.2, temperature: float = 1.0
) -> jax.Array:
    """Self-guided refinement (SGLR), no gradient: q = w_c softmax(f(x)/T) + (1 - w_c) softmax(f(x')/T); -> [B, K].

    Examples:
        >>> refine_labels(jnp.log(jnp.array([[0.5, 0.5]])), jnp.log(jnp.array([[1.0, 3.0]]))).tolist()
        [[0.3, 0.7]]
    """
    _check_share(clean_weight, "clean_weight")
    if isinstance(temperature, (int, float)) and not temperature > 0:
        raise InputError(f"temperature must be above 0, it is {temperature}")
    chex.assert_equal_shape([clean_logits, adversarial_logits])
    clean, adversarial = jax.lax.stop_gradient((clean_logits, adversarial_logits))
    clean, adversarial = (jax.nn.softmax(z.astype(jnp.float32) / temperature) for z in (clean, adversarial))
    return clean_weight * clean + (1.0 - clean_weight) * adversarial


def remember(memory: jax.Array, refined: jax.Array, alpha: float = 0.9) -> jax.Array:
    """Self-distillation over time (SGLR), no gradient: S <- alpha S + (1 - alpha) q, on rows [B, K] of the memory.

    Examples:
        >>> remember(jnp.array([[1.0, 0.0]]), jnp.array([[0.5, 0.5]])).tolist()
        [[0.95, 0.05]]
    """
    _check_share(alpha, "alpha")
    chex.assert_equal_shape([memory, refined])
    return jax.lax.stop_gradient(alpha * memory + (1.0 - alpha) * refined)


def mix_with_labels(memory: jax.Array, label: jax.Array, r: float = 1.0) -> jax.Array:
    """What SGLR trains on: r S + (1 - r) onehot(y); rows [B, K], labels [B] -> [B, K].

    Examples:
        >>> mix_with_labels(jnp.array([[0.5, 0.5]]), jnp.array([1]), r=0.8).tolist()
        [[0.4, 0.6]]
    """
    _check_share(r, "r")
    chex.assert_shape(label, memory.shape[:-1])
    return r * memory + (1.0 - r) * jax.nn.one_hot(label, memory.shape[-1], dtype=memory.dtype)


def label_entropy(probabilities: jax.Array) -> jax.Array:
    """Entropy of labels given as probabilities, in nats; [B, K] -> [B].

    Examples:
        >>> label_entropy(jnp.array([[0.5, 0.5]]))  # log 2
        Array([0.6931], dtype=float32)
    """
    return jnp.sum(jax.scipy.special.entr(probabilities), -1)
