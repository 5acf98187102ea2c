"""One training step on one device, made from a method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from advjax import fields, parallel
from advjax.data import KINDS, augment, from_rows, parse_augment
from advjax.errors import InputError
from advjax.fields import SEED, Parsed, at_least, field, one_of
from advjax.methods.base import Aux, Batch, Context, Method, Network, State
from advjax.training.state import TrainState

# Purpose of a key that is drawn between two steps: no step's own.
_END = 2**31

Metrics = dict[str, jax.Array]
Step = Callable[..., tuple[TrainState, Metrics]]


class Data(NamedTuple):
    """The training set on a device: uint8 images as rows [N, R] (`advjax.data.to_rows`) and int32 labels [N]."""

    image: jax.Array
    label: jax.Array


class Sent(NamedTuple):
    """One device's share of a batch as it comes from the host: rows of pixels [B, R], labels, row numbers, weights [B]."""

    image: jax.Array
    label: jax.Array
    rows: jax.Array
    weight: jax.Array


class Order(NamedTuple):
    """One device's share of the batches of an epoch: row numbers and weights, both [steps, B]."""

    rows: jax.Array
    weight: jax.Array


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """What a step needs to know beside the method.

    Attributes:
        num_classes: number of classes.
        epochs: length of the run; phases are fractions of it.
        seed: root of all randomness of the run.
        augment: kind of augmentation, `advjax.data.augment`.
        batch_norm: `"global"`: statistics over the whole batch, so that one device equals four; `"device"`: over each
            device's share.
    """

    num_classes: int = field(10, at_least(1), "number of classes")
    epochs: int = field(1, at_least(1), "length of the run")
    seed: int = field(0, SEED, "root of all randomness")
    augment: str = field("none", Parsed(parse_augment, ", ".join(KINDS)), "of the training images")
    batch_norm: str = field("global", one_of("global", "device"), "whose share of the batch BatchNorm normalises over")

    def __post_init__(self) -> None:
        fields.check(self)


def make_step(
    method: Method,
    modules: Mapping[str, nn.Module],
    optimizer: optax.GradientTransformation,
    config: StepConfig,
    phase: Hashable,
) -> Step:
    """The per-device function `(state, frozen, batch, epoch) -> (state, metrics)`, to be mapped over devices.

    `frozen` is name -> variables of the given networks, `batch` this device's share (`Batch`), `epoch` an int32 scalar
    from 0; `metrics` is name -> [sum, count] over the whole batch.

    Args:
        method: what is trained.
        modules: name -> module, of every network.
        optimizer: applied to each trained network on its own; a method may put another in its place.
        config: see `StepConfig`.
        phase: what `method.phase` gave; another phase is another step.

    Raises:
        InputError: when traced, a batch without the views that the method wants.
    """

    def step(state: TrainState, frozen: Mapping[str, Any], batch: Batch, epoch: jax.Array):
        if len(batch.views) != method.views - 1:
            raise InputError(f"must be {method.views - 1} beside the image, they are {len(batch.views)}", "batch.views")
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        context = _context(modules, config, phase, state, frozen, batch, epoch, key)
        attack_key, loss_key = jax.random.fold_in(key, 1), jax.random.fold_in(key, 2)
        opt_state, adversarial = dict(state.opt_state), None
        metrics: dict[str, Any] = {}
        for index, names in enumerate(method.update_groups):
            context = dataclasses.replace(context, group=index)
            if index == 0 or method.perturb_each_group:
                adversarial, moved = method.perturb(context, jax.random.fold_in(attack_key, index))
                adversarial, context = jax.lax.stop_gradient(adversarial), context.with_nets(moved)
            group_key = jax.random.fold_in(loss_key, index)
            at, gradients, (value, aux) = _gradients(method, context, adversarial, group_key)
            params = {}
            for name in names:
                rule = method.optimizer(name, optimizer, epoch, config.epochs)
                updates, opt_state[name] = rule.update(gradients[name], opt_state[name], at[name])
                # The step is taken from w, though the gradient is that at `at`.
                params[name] = optax.apply_updates(context.nets[name].params, updates)
            context = _advanced(context, params, aux, config.batch_norm)
            metrics = _added(metrics, {"loss": context.metric(value), **aux.metrics})
        context = context.with_nets(method.after_update(context, adversarial))
        return _new_state(state, context, opt_state), parallel.psum(
            {name: jnp.stack(pair) for name, pair in metrics.items()}
        )

    return step


def make_indexed_step(step: Step, config: StepConfig, image_shape: tuple[int, int, int], views: int = 1) -> Step:
    """`(state, frozen, data, order) -> (state, metrics)`: the step on the batch that `order` holds for it.

    It gathers its batch from the training set by the step counter and augments it, so that nothing but the call itself
    comes from the host.

    Args:
        step: from `make_step`.
        config: see `StepConfig`.
        image_shape: (H, W, C) of the images in `data`.
        views: how many augmented views of every image the method wants.
    """

    def indexed(state: TrainState, frozen: Mapping[str, Any], data: Data, order: Order):
        steps = len(order.rows)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), state.step), 0)
        batch = _gathered(data, order, state.step % steps, key, config.augment, image_shape, views)
        return step(state, frozen, batch, state.step // steps)

    return indexed


def make_streamed_step(
    step: Step, config: StepConfig, image_shape: tuple[int, int, int], per_epoch: int, views: int = 1
) -> Step:
    """`(state, frozen, sent) -> (state, metrics)`: the step on a batch from the host, augmented as `make_indexed_step`'s.

    Args:
        step: from `make_step`.
        config: see `StepConfig`.
        image_shape: (H, W, C) of the images in `sent`.
        per_epoch: steps in an epoch.
        views: how many augmented views of every image the method wants.
    """

    def streamed(state: TrainState, frozen: Mapping[str, Any], sent: Sent):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), state.step), 0)
        image, *others = _views(key, from_rows(sent.image, image_shape), sent.rows, config.augment, views)
        batch = Batch(image, sent.label, sent.rows, sent.weight, tuple(others))
        return step(state, frozen, batch, state.step // per_epoch)

    return streamed


def make_epoch_end(
    method: Method,
    modules: Mapping[str, nn.Module],
    config: StepConfig,
    phase: Hashable,
    image_shape: tuple[int, int, int],
) -> Callable[..., TrainState]:
    """The per-device function `(state, frozen, data, order) -> state` that follows the last step of an epoch.

    To be called, with the order of the epoch that is over, only where `method.ends(phase)`.

    Args:
        method: what is trained.
        modules: name -> module, of every network.
        config: see `StepConfig`.
        phase: of the epoch that is over.
        image_shape: (H, W, C) of the images in `data`.
    """

    def end(state: TrainState, frozen: Mapping[str, Any], data: Data, order: Order) -> TrainState:
        steps = len(order.rows)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), state.step), _END)
        context = _context(modules, config, phase, state, frozen, None, state.step // steps - 1, key)
        nets, moved = method.after_epoch(context)
        context = context.with_nets(nets)
        names = method.recomputed(phase)

        def revisit(index, stats):
            batch = _gathered(data, order, index, jax.random.fold_in(key, index), config.augment, image_shape)
            for name in names:
                net = dataclasses.replace(context.nets[name].with_stats(stats[name]), weight=batch.weight)
                net = net.train(batch.image, momentum=index / (index + 1.0))[1]
                stats = {**stats, name: _shared(net.stats, config.batch_norm)}
            return stats

        if names:
            stats = jax.lax.fori_loop(0, steps, revisit, {name: context.nets[name].stats for name in names})
            context = context.with_nets({name: context.nets[name].with_stats(stats[name]) for name in names})
        return dataclasses.replace(
            state,
            params={name: context.nets[name].params for name in state.params},
            stats={name: context.nets[name].stats for name in state.stats},
            method=state.method if moved is None else state.method._replace(shared=moved.shared),
        )

    return end


def _gathered(
    data: Data,
    order: Order,
    index: jax.Array,
    key: jax.Array,
    kind: str,
    image_shape: tuple[int, int, int],
    views: int = 1,
) -> Batch:
    """The batch of this index in an epoch's order, gathered and augmented."""
    rows, weight = jax.tree.map(lambda leaf: leaf[index], (order.rows, order.weight))
    image, *others = _views(key, from_rows(data.image[rows], image_shape), rows, kind, views)
    return Batch(image, data.label[rows], rows, weight, tuple(others))


def _views(key: jax.Array, raw: jax.Array, rows: jax.Array, kind: str, views: int) -> list[jax.Array]:
    """Augmented views of every image; each is drawn by a key of its own, the first one's that of a method with one."""
    keys = [key, *(jax.random.fold_in(key, view) for view in range(1, views))]
    return [augment(each, raw, rows, kind) for each in keys]


def _context(modules, config, phase, state, frozen, batch, epoch, key) -> Context:
    shared, rows = state.method
    if batch is not None:
        rows = jax.tree.map(lambda leaf: leaf[batch.id], rows)
    weight = None if batch is None else batch.weight
    variables = {name: (state.params[name], state.stats[name]) for name in state.params}
    variables |= {name: (value["params"], value["batch_stats"]) for name, value in frozen.items()}
    axis = parallel.AXIS if config.batch_norm == "global" else None
    return Context(
        nets={
            name: Network(modules[name], *variables[name], weight, jax.random.fold_in(key, 3 + number), axis)
            for number, name in enumerate(sorted(variables))
        },
        state=State(shared, rows),
        batch=batch,
        epoch=epoch,
        epochs=config.epochs,
        phase=phase,
        group=0,
        num_classes=config.num_classes,
        psum=parallel.psum,
        pmax=parallel.pmax,
        step=state.step,
    )


def _gradients(method: Method, context: Context, adversarial: Any, key: jax.Array):
    """Where the gradient was taken, the gradient of the loss over the whole batch there, and what else came out."""
    at = method.perturb_weights(context, adversarial, key)

    def loss(at):
        return method.loss(context.with_params(at), adversarial, key)

    (value, aux), gradients = jax.value_and_grad(loss, has_aux=True)(at)
    # The loss is a sum over all devices, and the transpose of psum is psum: every device's gradient is the
    # derivative of the sum of all devices' (equal) losses, so the mean over devices is the gradient.
    return at, jax.lax.pmean(gradients, parallel.AXIS), (value, aux)


def _advanced(context: Context, params: Mapping[str, Any], aux: Aux, batch_norm: str) -> Context:
    """After an update: new parameters of the group, new statistics, new state."""
    stats = _shared({name: net.stats for name, net in aux.nets.items()}, batch_norm)
    context = context.with_params(params)
    context = context.with_nets({name: context.nets[name].with_stats(value) for name, value in stats.items()})
    return context if aux.state is None else dataclasses.replace(context, state=aux.state)


def _shared(stats: Any, batch_norm: str) -> Any:
    """The same statistics on all devices, where each took its own."""
    return jax.lax.pmean(stats, parallel.AXIS) if batch_norm == "device" else stats


def _added(metrics: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """By name, so that groups that report the same quantity average over it."""
    return {**metrics, **{n: jax.tree.map(jnp.add, metrics[n], m) if n in metrics else m for n, m in more.items()}}


def _new_state(state: TrainState, context: Context, opt_state: dict[str, Any]) -> TrainState:
    return TrainState(
        step=state.step + 1,
        params={name: context.nets[name].params for name in state.params},
        stats={name: context.nets[name].stats for name in state.stats},
        opt_state=opt_state,
        method=State(context.state.shared, _scattered(state.method.per_example, context)),
    )


def _scattered(whole: Any, context: Context) -> Any:
    """The per-example state with the batch's rows, gathered from all devices, written in; padding writes nothing."""
    if not jax.tree.leaves(whole):
        return whole
    id, weight, new = jax.lax.all_gather(
        (context.batch.id, context.batch.weight, context.state.per_example), parallel.AXIS, tiled=True
    )

    def write(old, new):
        return old.at[jnp.where(weight > 0, id, len(old))].set(new, mode="drop")

    return jax.tree.map(write, whole, new)
