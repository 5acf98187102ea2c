"""Projected gradient ascent: one loop that is FGSM, PGD, FGSM-RS, CW-inf or the attack of TRADES or AdaAD."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from advjax import compiling, losses, threat
from advjax.attacks.engine.inputs import (
    as_array,
    as_number,
    check_budget,
    check_choice,
    check_count,
    check_flag,
    check_images,
    check_key,
    check_target,
    count_classes,
    default_ids,
)
from advjax.attacks.engine.loops import as_partial, is_traced, repeat
from advjax.numbers import check_range, number


@dataclasses.dataclass(frozen=True)
class Ascent:
    """One step x' <- P(x' + step_size * direction(gradient)), as a hashable loop body.

    Attributes:
        norm: `"linf"`, `"l2"` or `"l1"`.
        decay: of the momentum of gradients, each of unit l_1 norm (MI-FGSM); None: the gradient itself.
    """

    norm: str
    decay: float | None = None

    def __call__(self, i, carry, objective, x, eps, step_size, key, ids):
        x_adv, momentum, aux = carry

        def total(x_adv):
            values, new_aux = objective(x_adv, aux)
            return jnp.sum(values), new_aux

        gradient, aux = jax.grad(total, has_aux=True)(x_adv)
        # What is not finite points nowhere; the image must stay in the box.
        gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
        if self.decay is not None:
            length = jnp.maximum(threat.norm(gradient, "l1"), 1e-30)
            gradient = momentum = self.decay * momentum + gradient / threat.per_example(length, x)
        if self.norm == "l1":
            low, high = l1_coordinates(x[0].size)
            keys = threat.example_keys(jax.random.fold_in(key, i), ids)
            k = jax.vmap(lambda k: jax.random.randint(k, (), low, high + 1))(keys)
            direction = threat.steepest_step(gradient, "l1", x=x_adv, k=k)
        else:
            direction = threat.steepest_step(gradient, self.norm)
        x_adv = threat.project(x_adv + threat.per_example(step_size, x) * direction, x, self.norm, eps)
        return x_adv, momentum, aux


def l1_coordinates(size: int) -> tuple[int, int]:
    """How many coordinates an l_1 step moves: 5 to 20 of CIFAR's 3,072 (Maini et al. 2020), in proportion."""
    return max(size // 600, 1), max(size // 150, 1)


def maximize(
    objective: Callable[[jax.Array, Any], tuple[jax.Array, Any]],
    x: jax.Array,
    start: jax.Array,
    *,
    norm: str,
    eps: jax.typing.ArrayLike,
    step_size: jax.typing.ArrayLike,
    steps: int,
    key: jax.Array,
    ids: jax.Array,
    aux: Any = (),
    decay: float | None = None,
) -> tuple[jax.Array, Any]:
    """The core that every PGD here shares: any objective, any start, and something carried along.

    Args:
        objective: `(x', aux) -> ([B], aux)`; maximised per example. What it returns beside the values is carried to the
            next step: BatchNorm statistics that the attack moves, a count of correct points (GAIRAT), who is fooled.
        x: clean images [B, H, W, C] in [0, 1], the centre of the ball.
        start: where the first gradient is taken, [B, H, W, C].
        norm: `"linf"`, `"l2"` or `"l1"`.
        eps: radius, a number or [B].
        step_size: length of a step in that norm, a number or [B].
        steps: number of gradients.
        key: draws l_1's number of coordinates.
        ids: example ids [B].
        aux: the first `aux`.
        decay: of a momentum of the gradients (`Ascent`); None: no momentum.

    Returns:
        The last point, inside ball and box, gradients stopped, and the last aux.
    """
    x, start = jax.lax.stop_gradient((x, start))
    carry = (start, () if decay is None else jnp.zeros_like(x), aux)
    x_adv, _, aux = repeat(Ascent(norm, decay), steps, carry, as_partial(objective), x, eps, step_size, key, ids)
    return jax.lax.stop_gradient((threat.project(x_adv, x, norm, eps), aux))


@dataclasses.dataclass(frozen=True)
class _OfLogits:
    """A loss of the logits as an objective; with `freeze` an example stops moving once the attack has what it wants."""

    loss: losses.Objective
    freeze: bool = False
    targeted: bool = False

    def __call__(self, logits_fn, target, x_adv, standing):
        logits = logits_fn(x_adv)
        values = -self.loss(logits, target) if self.targeted else self.loss(logits, target)
        if self.freeze:
            correct = losses.correct(logits, target)
            standing = standing * (1.0 - correct if self.targeted else correct)
            values = values * standing
        return values, standing


def objective_of(
    logits_fn: Callable, target: jax.Array, loss: str | losses.Objective, freeze: bool = False, targeted: bool = False
) -> jax.tree_util.Partial:
    """The objective `(x', aux) -> ([B], aux)` that `maximize` takes, from a network, a target and a loss of both.

    With `targeted` the loss is to fall, towards the target; with `freeze` an example stops once that is reached, or,
    untargeted, once it is misclassified.
    """
    return jax.tree_util.Partial(_OfLogits(losses.objective(loss), freeze, targeted), as_partial(logits_fn), target)


@partial(jax.jit, static_argnames=("norm", "kind"))
def _start(key, x, ids, eps, *, norm, kind):
    return threat.random_start(key, x, ids, norm, eps, kind)


@partial(jax.jit, static_argnames=("loss", "targeted"))
def _keep_better(best, score, x_adv, logits_fn, y, *, loss, targeted):
    """The better of two candidates per example: a success, then logits that are not finite, then the larger objective."""
    logits = logits_fn(x_adv)
    finite = jnp.all(jnp.isfinite(logits), -1)
    fooled = 1.0 - losses.correct(logits, y) if y.ndim == 1 else jnp.zeros(len(x_adv))
    fooled = jnp.where(finite, 1.0 - fooled if targeted else fooled, 0.5)
    sign = -1.0 if targeted else 1.0
    new = jnp.stack([fooled, sign * losses.objective(loss)(logits, y)], -1)
    better = (new[:, 0] > score[:, 0]) | ((new[:, 0] == score[:, 0]) & (new[:, 1] > score[:, 1]))
    keep = better.reshape(better.shape + (1,) * (x_adv.ndim - 1))
    return jnp.where(keep, x_adv, best), jnp.where(better[:, None], new, score)


def pgd(
    logits_fn: Callable[[jax.Array], jax.Array],
    key: jax.Array,
    x: jax.Array,
    y: jax.Array,
    *,
    eps: jax.typing.ArrayLike | str,
    step_size: jax.typing.ArrayLike | str,
    steps: int,
    norm: str = "linf",
    ids: jax.Array | None = None,
    start: str = "uniform",
    objective: str | losses.Objective = "ce",
    restarts: int = 1,
    freeze: bool = False,
    targeted: bool = False,
    decay: float | None = None,
) -> jax.Array:
    """Projected gradient descent attack (Madry et al. 2018) on any network, in any of the three norms.

    Pure: the same arguments give the same images, and an example's noise depends on `key` and its id only, never on the
    batch around it. May be called inside `jit`, `pmap` and `vmap` or on its own; on its own it compiles once per
    `logits_fn` object, shape and set of static arguments. Where the logits are NaN or infinite there is no gradient, and
    the image stays there; no images give no images. Arrays may be NumPy's or lists.

    Args:
        logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K], evaluation mode.
        key: random key, `jax.random.key(seed)`.
        x: clean images [B, H, W, C], float32 in [0, 1].
        y: labels [B], or whatever target the objective takes (`"kl"`: probabilities [B, K]).
        eps: radius of the ball, a number, a fraction such as `"8/255"` or one per example [B]; 0 returns the clean images.
        step_size: length of a step in `norm`, likewise.
        steps: number of steps.
        norm: `"linf"`, `"l2"` or `"l1"`; an l_1 step moves 5 to 20 of 3,072 coordinates (other sizes in proportion), drawn
            per step and example.
        ids: example ids [B], int32; 0..B-1 if absent.
        start: `"uniform"`, `"uniform_unclipped"`, `"normal"` or `"none"` (`advjax.threat.random_start`).
        objective: `"ce"`, `"margin"`, `"probability_margin"`, `"cw"`, `"dlr"`, `"kl"` or a function
            `(logits, y) -> [B]`, maximised.
        restarts: number of runs from different starts, of which every example keeps the best: misclassified before
            logits that are not finite before neither, then the larger objective.
        freeze: whether an example stops moving as soon as it is misclassified.
        targeted: whether `y` is where to go instead of where from: the objective is minimised, and success is to be
            classified as `y`.
        decay: of a momentum of the gradients, as in `mi_fgsm`; None: no momentum.

    Returns:
        Images [B, H, W, C] inside the ball and the box.

    Raises:
        InputError: images outside [0, 1], labels that are no classes, fewer than two classes, no random key, a negative
            or too large `eps`, a negative `step_size`, what is not finite, wrong shapes, an unknown name, a `logits_fn`
            that is no JAX function of batches of any size.
    """
    norm = threat.canonical_norm(norm)
    x, y, radius, length = as_array(x, "x"), as_array(y, "y"), as_number(eps, "eps"), as_number(step_size, "step_size")
    check_key(key)
    check_images(x)
    check_budget(norm, radius, x.shape[1:], len(x), length)
    check_count(steps, "steps", 0)
    check_count(restarts, "restarts", 1)
    check_choice(start, "start", threat.STARTS)
    check_flag(freeze, "freeze")
    check_flag(targeted, "targeted")
    if decay is not None:
        decay = number(decay, "decay")
        check_range(decay, "decay")
    num_classes = count_classes(logits_fn, x.shape[1:])
    check_target(objective, y, len(x), num_classes)
    ids = default_ids(ids, len(x))
    logits_fn = as_partial(logits_fn)
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y)
    if not len(x):
        return x
    target = objective_of(logits_fn, y, objective, freeze, targeted)

    def attack(key):
        first = _start(key, x, ids, radius, norm=norm, kind=start)
        standing = jnp.ones(len(x)) if freeze else ()
        return maximize(
            target, x, first, norm=norm, eps=radius, step_size=length, steps=steps, key=key, ids=ids, aux=standing,
            decay=decay,
        )[0]  # fmt: skip

    keys = jax.vmap(lambda restart: jax.random.fold_in(key, restart))(jnp.arange(restarts))
    with compiling.for_arrays(x, key):
        if restarts == 1:
            return attack(keys[0])
        # On CPU a vmapped loop would be a loop on the device, which `repeat` avoids there.
        side_by_side = is_traced(key, x) or compiling.platform() != "cpu"
        candidates = jax.vmap(attack)(keys) if side_by_side else map(attack, keys)
        best, score = x, jnp.full((len(x), 2), -jnp.inf)
        for candidate in candidates:
            best, score = _keep_better(best, score, candidate, logits_fn, y, loss=objective, targeted=targeted)
    return best


def fgsm(
    logits_fn: Callable[[jax.Array], jax.Array],
    key: jax.Array,
    x: jax.Array,
    y: jax.Array,
    *,
    norm: str = "linf",
    eps: jax.typing.ArrayLike | str,
    start: str = "none",
    **options: Any,
) -> jax.Array:
    """The fast gradient sign method (Goodfellow et al. 2015): one step of length `eps` from the image itself.

    Args:
        logits_fn, key, x, y, norm, eps: as in `pgd`.
        start: `"none"`, or where else to take the gradient (`"uniform"`, as DYNAT tests).
        **options: of `pgd`: ids, objective, targeted, step_size (`eps` if absent).

    Returns:
        Images [B, H, W, C] inside the ball and the box.
    """
    options = {"steps": 1, "step_size": eps, **options}
    return pgd(logits_fn, key, x, y, norm=norm, eps=eps, start=start, **options)


def mi_fgsm(
    logits_fn: Callable[[jax.Array], jax.Array],
    key: jax.Array,
    x: jax.Array,
    y: jax.Array,
    *,
    norm: str = "linf",
    eps: jax.typing.ArrayLike | str,
    steps: int = 10,
    decay: float = 1.0,
    start: str = "none",
    **options: Any,
) -> jax.Array:
    """The momentum iterative method (Dong et al. 2018), which transfers better than PGD.

    g <- decay g + gradient / ||gradient||_1, x' <- P(x' + step_size sign(g)), step_size = eps / steps.

    Args:
        logits_fn, key, x, y, norm, eps: as in `pgd`.
        steps: number of steps.
        decay: of the momentum; 0 is PGD.
        start: where to begin.
        **options: of `pgd`: ids, objective, targeted, step_size, restarts.

    Returns:
        Images [B, H, W, C] inside the ball and the box.
    """
    check_count(steps, "steps", 1)
    options = {"step_size": as_number(eps, "eps") / steps, **options}
    return pgd(logits_fn, key, x, y, norm=norm, eps=eps, steps=steps, decay=decay, start=start, **options)
