"""Learning rate schedules and the optimizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from advjax import plugins
from advjax.errors import InputError, unknown

SCHEDULES = ("piecewise", "piecewise_linear", "cosine", "cyclic", "onecycle", "constant")


def learning_rate(
    name: str,
    peak: float,
    epochs: int,
    steps_per_epoch: int,
    *,
    milestones: Sequence[float] = (0.5, 0.75),
    factor: float | Sequence[float] = 0.1,
    warmup: float = 0.0,
    warmup_factor: float = 0.0,
    peak_at: float = 0.5,
    first_epoch: int = 0,
) -> optax.Schedule:
    """The learning rate as a function of the step. Times are fractions of the run, so that it rescales with `epochs`.

    Args:
        name: `"piecewise"` (multiplied by `factor` at each milestone, which is rounded to a whole epoch),
            `"piecewise_linear"` (linear from 0 through `factor` x peak at each milestone), `"cosine"` (to 0),
            `"cyclic"` (linear 0 -> peak -> 0), `"onecycle"` (optax's: cosine up from peak/25, then down to
            peak/250000), `"constant"`; or `package.module:function`, called as `function(peak, epochs,
            steps_per_epoch)`, which returns a function of the step.
        peak: the largest learning rate.
        epochs: length of the run.
        steps_per_epoch: steps in an epoch.
        milestones: fractions of the run at which a piecewise schedule drops, ascending, in (0, 1].
        factor: what each drop multiplies with, or the share of the peak reached; one number, or one per milestone.
        warmup: fraction of the run at its start, rounded to a whole epoch, at `warmup_factor` x peak (if
            `warmup_factor` is not 0) or rising linearly from 0 (piecewise and cosine).
        warmup_factor: see `warmup`.
        peak_at: fraction of the run at which a cyclic or one-cycle schedule peaks.
        first_epoch: number of the first epoch where a piecewise linear schedule is read: with 1 the first step has the
            rate of one epoch done, and the last epoch that of the end (as MSD's authors count).

    Raises:
        InputError: an unknown name, or times outside the run.
    """
    total = epochs * steps_per_epoch
    if plugins.is_reference(name) or name in plugins.registered("schedule"):
        make = plugins.resolve(name, "schedule", SCHEDULES)
        rate = plugins.call(make, f"schedule {name}", peak, epochs, steps_per_epoch)
        if not callable(rate):
            raise InputError(f"must give a function of the step, {name} gives {rate!r}", "name")
        return rate
    if name not in SCHEDULES:
        raise unknown("schedule", name, SCHEDULES, "name")
    if list(milestones) != sorted(milestones) or any(not 0 < m <= 1 for m in milestones):
        raise InputError(f"must be ascending fractions of the run in (0, 1], they are {milestones}", "milestones")
    if not 0 <= warmup < 1:
        raise InputError(f"must be a fraction of the run in [0, 1), it is {warmup}", "warmup")
    if not 0 < peak_at < 1:
        raise InputError(f"must be a fraction of the run in (0, 1), it is {peak_at}", "peak_at")
    if name == "constant":
        return optax.constant_schedule(peak)
    if name == "cyclic":
        return cycle(0.0, peak, total, peak_at)
    if name == "onecycle":
        return optax.cosine_onecycle_schedule(total, peak, pct_start=peak_at)
    factors = [factor] * len(milestones) if isinstance(factor, (int, float)) else list(factor)
    if len(factors) != len(milestones):
        raise InputError(f"must be a number or one per milestone, it is {factor}", "factor")
    if name == "piecewise_linear":
        times, values = jnp.asarray([0.0, *milestones]) * total, peak * jnp.asarray([0.0, *factors])
        return lambda step: jnp.interp(step + first_epoch * steps_per_epoch, times, values)
    warm = round(warmup * epochs) * steps_per_epoch
    if name == "cosine":
        main = optax.cosine_decay_schedule(peak, max(total - warm, 1))
    else:
        drops: dict[int, float] = {}
        for milestone, value in zip(milestones, factors, strict=True):
            at = round(milestone * epochs) * steps_per_epoch - warm
            drops[at] = drops.get(at, 1.0) * value
        main = optax.piecewise_constant_schedule(peak, drops)
    if not warm:
        return main
    start = optax.constant_schedule(warmup_factor * peak) if warmup_factor else optax.linear_schedule(0.0, peak, warm)
    return optax.join_schedules([start, main], [warm])


def cycle(ends: float, middle: float, steps: int, peak_at: float = 0.5) -> optax.Schedule:
    """Linear from `ends` to `middle` at the fraction `peak_at` of the steps, and back (PyTorch's CyclicLR, one cycle)."""
    top = round(peak_at * steps)
    up, down = optax.linear_schedule(ends, middle, top), optax.linear_schedule(middle, ends, steps - top)
    return optax.join_schedules([up, down], [top])


def cosine_cycle(ends: float, middle: float, steps: int, peak_at: float = 0.5) -> optax.Schedule:
    """`cycle` along half cosines, as PyTorch's OneCycleLR moves the momentum."""

    def course(step):
        share = jnp.clip(step / steps, 0.0, 1.0)
        up, down = share / peak_at, (share - peak_at) / (1.0 - peak_at)
        half = jnp.where(share < peak_at, 1.0 - jnp.cos(jnp.pi * up), 1.0 + jnp.cos(jnp.pi * down)) / 2.0
        return ends + (middle - ends) * half

    return course


def sgd(
    schedule: optax.ScalarOrSchedule,
    *,
    momentum: optax.ScalarOrSchedule = 0.9,
    nesterov: bool = False,
    weight_decay: float = 5e-4,
    decay: str = "all",
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """SGD as PyTorch runs it: the decay is added to the gradient before the momentum.

    Args:
        schedule: learning rate, a number or a function of the step.
        momentum: 0 for none; a number or a function of the step.
        nesterov: Nesterov's form.
        weight_decay: L2 coefficient.
        decay: `"all"` parameters, as the papers do, or `"kernels"` only (arrays of two dimensions or more).
        clip_norm: the gradient's global norm (per network) is clipped to this; 0 for no clipping.

    Raises:
        InputError: an unknown `decay`.
    """
    parts = [*_clipping(clip_norm), optax.add_decayed_weights(weight_decay, _decaying(decay))]
    if callable(momentum):
        parts.append(optax.inject_hyperparams(optax.sgd)(schedule, momentum=momentum, nesterov=nesterov))
    else:
        parts.append(optax.sgd(schedule, momentum or None, nesterov))
    return optax.chain(*parts)


def adamw(
    schedule: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    beta2: float = 0.999,
    weight_decay: float = 0.05,
    decay: str = "kernels",
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019) as PyTorch runs it: weights decay by learning rate x `weight_decay`, epsilon 1e-8.

    Args:
        schedule: learning rate, a number or a function of the step.
        momentum: the decay of the gradients' mean, beta1.
        beta2: the decay of their squares' mean.
        weight_decay: of `decay`, see `sgd`.
        decay: see `sgd`.
        clip_norm: see `sgd`.

    Raises:
        InputError: an unknown `decay`.
    """
    rule = optax.adamw(schedule, momentum, beta2, weight_decay=weight_decay, mask=_decaying(decay))
    return optax.chain(*_clipping(clip_norm), rule)


def _clipping(norm: float) -> list[optax.GradientTransformation]:
    return [optax.clip_by_global_norm(norm)] if norm else []


def _decaying(decay: str) -> Any:
    """Mask of the parameters that decay; None for all."""
    if decay not in ("all", "kernels"):
        raise unknown("choice", decay, ("all", "kernels"), "decay")
    return None if decay == "all" else lambda params: jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)
