"""One training step on one device, made from a method."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from advjax import compiling, fields, parallel
from advjax.compiling import PRECISIONS
from advjax.data import KINDS, augment, cutmix, from_rows, parse_augment, split_cutmix
from advjax.errors import InputError
from advjax.fields import SEED, Parsed, at_least, field, one_of
from advjax.methods.base import Aux, Batch, Context, Method, Network, State
from advjax.training.state import TrainState

# Purposes of keys: what is drawn between two steps, no step's own; what CutMix draws of a step's.
_END, _CUTMIX = 2**31, 2**31 + 1

Metrics = dict[str, jax.Array]
Step = Callable[..., tuple[TrainState, Metrics]]


class Extra(NamedTuple):
    """The extra examples of an epoch on a device, rows N.. of the training set for that long.

    Attributes:
        image: uint8 [E, R].
        label: int32 [E].
        per_example: what the method remembers of an example that it has never seen, with rows [E, ...]; it sees an extra
            example so every time, and what it would remember is dropped.
    """

    image: jax.Array
    label: jax.Array
    per_example: Any = ()


class Data(NamedTuple):
    """The training set on a device.

    Attributes:
        image: uint8 images as rows [N, R] (`advjax.data.to_rows`).
        label: int32 [N].
        extra: the extra examples of this epoch; None where there are none.
    """

    image: jax.Array
    label: jax.Array
    extra: Extra | None = None


class Sent(NamedTuple):
    """One device's share of a batch as it comes from the host: rows of pixels [B, R], labels, row numbers, weights [B]."""

    image: jax.Array
    label: jax.Array
    rows: jax.Array
    weight: jax.Array


class Order(NamedTuple):
    """One device's share of the batches of an epoch.

    Attributes:
        rows: [steps, B] row numbers in `Data`.
        weight: [steps, B] 1, or 0 for padding.
        partner: [steps, B] rows of the examples that CutMix cuts from; None without it.
    """

    rows: jax.Array
    weight: jax.Array
    partner: jax.Array | None = None


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
        products: how accelerators multiply float32, `advjax.compiling.products`.
        microbatches: parts of a batch that are taken one after the other, their gradients added up: less memory for the
            same step, to rounding, where examples do not meet. In BatchNorm and in dropout they do: it normalises over
            what one part has on all devices (or on its own), and the running statistics move once a step, by the mean
            over the parts, as over devices with `"device"`.
    """

    num_classes: int = field(10, at_least(1), "number of classes")
    epochs: int = field(1, at_least(1), "length of the run")
    seed: int = field(0, SEED, "root of all randomness")
    augment: str = field("none", Parsed(parse_augment, ", ".join(KINDS)), "of the training images")
    batch_norm: str = field("global", one_of("global", "device"), "whose share of the batch BatchNorm normalises over")
    products: str = field("default", one_of(*PRECISIONS, kind="precision"), "how accelerators multiply float32")
    microbatches: int = field(1, at_least(1), "parts of a batch that are taken one after the other")

    def __post_init__(self) -> None:
        fields.check(self)


def check_microbatches(method: Method, microbatches: int, batch_size: int, devices: int) -> None:
    """Raises `InputError` unless batches of a method can be taken in so many parts."""
    if microbatches > 1 and not method.divisible:
        raise InputError(
            f"must be 1 for {type(method).__name__}, whose step needs the whole batch at once; it is {microbatches}",
            "microbatches",
        )
    if batch_size % (devices * microbatches):
        raise InputError(
            f"must be 1, or such that batch_size, {batch_size}, is a multiple of it times the {devices} devices; it is "
            f"{microbatches}",
            "microbatches",
        )


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

    @_multiplied(config)
    def step(state: TrainState, frozen: Mapping[str, Any], batch: Batch, epoch: jax.Array, unseen: Any = None):
        if len(batch.views) != method.views - 1:
            raise InputError(f"must be {method.views - 1} beside the image, they are {len(batch.views)}", "batch.views")
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        context = _context(modules, config, phase, state, frozen, batch, epoch, key, unseen)
        attack_key, loss_key = jax.random.fold_in(key, 1), jax.random.fold_in(key, 2)
        opt_state, adversarial = dict(state.opt_state), None
        metrics: dict[str, Any] = {}
        for index, names in enumerate(method.update_groups):
            context = dataclasses.replace(context, group=index)
            group_keys = (jax.random.fold_in(attack_key, index), jax.random.fold_in(loss_key, index))
            if config.microbatches > 1:
                adversarial, (at, gradients, (value, aux)) = _in_parts(method, context, group_keys, config)
            else:
                if index == 0 or method.perturb_each_group:
                    adversarial, context = _perturbed(method, context, group_keys[0])
                at, gradients, (value, aux) = _gradients(method, context, adversarial, group_keys[1])
            # The loss is a sum over all devices, and the transpose of psum is psum: every device's gradient is the
            # derivative of the sum of all devices' (equal) losses, so the mean over devices is the gradient.
            gradients = jax.lax.pmean(gradients, parallel.AXIS)
            params = {}
            for name in names:
                rule = method.optimizer(name, optimizer, epoch, config.epochs)
                updates, opt_state[name] = rule.update(gradients[name], opt_state[name], at[name])
                # The step is taken from w, though the gradient is that at `at`.
                params[name] = optax.apply_updates(context.nets[name].params, updates)
            context = _advanced(context, params, aux, config.batch_norm)
            metrics = _added(metrics, {"loss": context.metric(value), **aux.metrics})
        context = context.with_nets(method.after_update(context, adversarial))
        return _new_state(state, context, opt_state, repeats=unseen is not None), parallel.psum(
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
        batch = _gathered(data, order, state.step % steps, key, config, image_shape, views)
        unseen = None
        if data.extra is not None:
            row = jnp.maximum(batch.id - len(data.label), 0)
            unseen = jax.tree.map(lambda leaf: leaf[row], data.extra.per_example)
        return step(state, frozen, batch, state.step // steps, unseen)

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

    @_multiplied(config)
    def end(state: TrainState, frozen: Mapping[str, Any], data: Data, order: Order) -> TrainState:
        steps = len(order.rows)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), state.step), _END)
        context = _context(modules, config, phase, state, frozen, None, state.step // steps - 1, key)
        nets, moved = method.after_epoch(context)
        context = context.with_nets(nets)
        names = method.recomputed(phase)

        def revisit(index, stats):
            batch = _gathered(data, order, index, jax.random.fold_in(key, index), config, image_shape)
            for name in names:
                net = dataclasses.replace(context.nets[name].with_stats(stats[name]), weight=batch.weight)
                net = net.train(batch.image, momentum=index / (index + 1.0))[1]
                stats = {**stats, name: _shared(net.stats, config.batch_norm, batch.weight)}
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


def _multiplied(config: StepConfig) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Has a step's products traced with the precision that the config names."""

    def decorate(step):
        @functools.wraps(step)
        def traced(*args):
            with compiling.products(config.products):
                return step(*args)

        return traced

    return decorate


def _gathered(
    data: Data,
    order: Order,
    index: jax.Array,
    key: jax.Array,
    config: StepConfig,
    image_shape: tuple[int, int, int],
    views: int = 1,
) -> Batch:
    """The batch of this index in an epoch's order, gathered and augmented."""
    rows, weight, partner = jax.tree.map(lambda leaf: leaf[index], order)
    raw, label = _taken(data, rows, image_shape)
    image, *others = _views(key, raw, rows, config.augment, views)
    if partner is None:
        return Batch(image, label, rows, weight, tuple(others))
    # Drawn by the partner id: it is cut from as it stands in its own place.
    raw, other = _taken(data, partner, image_shape)
    image, target = cutmix(
        jax.random.fold_in(key, _CUTMIX),
        image,
        jax.nn.one_hot(label, config.num_classes),
        rows,
        augment(key, raw, partner, config.augment),
        jax.nn.one_hot(other, config.num_classes),
        share=split_cutmix(config.augment)[1],
    )
    return Batch(image, jnp.argmax(target, -1).astype(label.dtype), rows, weight, (), target)


def _views(key: jax.Array, raw: jax.Array, rows: jax.Array, kind: str, views: int) -> list[jax.Array]:
    """Augmented views of every image; each is drawn by a key of its own, the first is that of a method with one."""
    keys = [key, *(jax.random.fold_in(key, view) for view in range(1, views))]
    return [augment(each, raw, rows, kind) for each in keys]


def _taken(data: Data, rows: jax.Array, image_shape: tuple[int, int, int]) -> tuple[jax.Array, jax.Array]:
    """uint8 images [B, H, W, C] and labels [B] of rows of the training set, those from N on being extra ones."""
    image, label = data.image[rows], data.label[rows]
    if data.extra is not None:
        added, row = rows >= len(data.label), jnp.maximum(rows - len(data.label), 0)
        image = jnp.where(added[:, None], data.extra.image[row], image)
        label = jnp.where(added, data.extra.label[row], label)
    return from_rows(image, image_shape), label


def _context(modules, config, phase, state, frozen, batch, epoch, key, unseen=None) -> Context:
    shared, rows = state.method
    if batch is not None:
        rows = jax.tree.map(lambda leaf: leaf[batch.id], rows)
    if unseen is not None:

        def remembered(old, new, whole):
            added = (batch.id >= len(whole)).reshape(-1, *[1] * (old.ndim - 1))
            return jnp.where(added, new, old)

        rows = jax.tree.map(remembered, rows, unseen, state.method.per_example)
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
    return at, gradients, (value, aux)


def _perturbed(method: Method, context: Context, key: jax.Array) -> tuple[Any, Context]:
    adversarial, moved = method.perturb(context, key)
    return jax.lax.stop_gradient(adversarial), context.with_nets(moved)


def _in_parts(method: Method, context: Context, keys: tuple[jax.Array, jax.Array], config: StepConfig):
    """The adversarial examples and what `_gradients` gives, of a batch taken part by part: their mean, by size.

    A part has every so many-th example, so that the padding of a last batch spreads over all.
    """
    count = config.microbatches
    parts = jax.tree.map(
        lambda leaf: jnp.moveaxis(leaf.reshape(-1, count, *leaf.shape[1:]), 1, 0),
        (context.batch, context.state.per_example),
    )
    total = parallel.psum(jnp.sum(context.batch.weight))

    def taken(index, batch, rows):
        nets = {
            name: dataclasses.replace(net, weight=batch.weight, key=jax.random.fold_in(net.key, index))
            for name, net in context.nets.items()
        }
        part = dataclasses.replace(context, batch=batch, nets=nets, state=State(context.state.shared, rows))
        adversarial, part = _perturbed(method, part, keys[0])
        _, gradients, (value, aux) = _gradients(method, part, adversarial, keys[1])
        state, moved = aux.state or part.state, {**part.nets, **aux.nets}
        stats = _shared({name: moved[name].stats for name in method.trained}, config.batch_norm, batch.weight)
        share = parallel.psum(jnp.sum(batch.weight)) / total
        mean = jax.tree.map(lambda leaf: jnp.where(share > 0, leaf * share, 0), (gradients, value, stats))
        sums = jax.tree.map(lambda leaf: jnp.where(share > 0, leaf, 0), dict(aux.metrics))
        return (mean, sums), (adversarial, state)

    def add(summed, part):
        more, kept = taken(*part)
        return jax.tree.map(jnp.add, summed, more), kept

    pieces = (jnp.arange(count), *parts)
    shapes = jax.eval_shape(lambda: taken(*jax.tree.map(lambda leaf: leaf[0], pieces))[0])
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    ((gradients, value, stats), sums), (adversarial, states) = jax.lax.scan(add, nothing, pieces)

    def whole(leaf):
        return jnp.moveaxis(leaf, 0, 1).reshape(-1, *leaf.shape[2:])

    shared = jax.tree.map(lambda leaf: leaf[-1], states.shared)
    state = State(shared, jax.tree.map(whole, states.per_example))
    nets = {name: context.nets[name].with_stats(value) for name, value in stats.items()}
    at = {name: context.nets[name].params for name in method.trained}
    return jax.tree.map(whole, adversarial), (at, gradients, (value, Aux(nets, state, sums)))


def _advanced(context: Context, params: Mapping[str, Any], aux: Aux, batch_norm: str) -> Context:
    """After an update: new parameters of the group, new statistics, new state."""
    stats = _shared({name: net.stats for name, net in aux.nets.items()}, batch_norm, context.batch.weight)
    context = context.with_params(params)
    context = context.with_nets({name: context.nets[name].with_stats(value) for name, value in stats.items()})
    return context if aux.state is None else dataclasses.replace(context, state=aux.state)


def _shared(stats: Any, batch_norm: str, weight: jax.Array) -> Any:
    """The same statistics on all devices, where each took its own: their mean, by how many examples each has.

    A device's share of the last batch may be padding alone, whose statistics are those of nothing.
    """
    if batch_norm != "device":
        return stats
    count = jnp.sum(weight)
    return jax.tree.map(lambda leaf: parallel.psum(leaf * count) / parallel.psum(count), stats)


def _added(metrics: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """By name, so that groups that report the same quantity average over it."""
    return {**metrics, **{n: jax.tree.map(jnp.add, metrics[n], m) if n in metrics else m for n, m in more.items()}}


def _new_state(state: TrainState, context: Context, opt_state: dict[str, Any], repeats: bool) -> TrainState:
    return TrainState(
        step=state.step + 1,
        params={name: context.nets[name].params for name in state.params},
        stats={name: context.nets[name].stats for name in state.stats},
        opt_state=opt_state,
        method=State(context.state.shared, _scattered(state.method.per_example, context, repeats)),
    )


def _scattered(whole: Any, context: Context, repeats: bool) -> Any:
    """The per-example state with the batch's rows, gathered from all devices, written in; padding and extra examples
    write nothing. Where a batch may hold an example twice (`repeats`), its last place in the batch counts."""
    if not jax.tree.leaves(whole):
        return whole
    id, weight, new = jax.lax.all_gather(
        (context.batch.id, context.batch.weight, context.state.per_example), parallel.AXIS, tiled=True
    )

    def write(old, new):
        row = jnp.where(weight > 0, id, len(old))
        if repeats:
            # Which of two writes to one place wins is not defined.
            place = jnp.arange(len(row))
            last = jnp.zeros(len(old), place.dtype).at[row].max(place, mode="drop")
            row = jnp.where(last[jnp.minimum(row, len(old) - 1)] == place, row, len(old))
        return old.at[row].set(new, mode="drop")

    return jax.tree.map(write, whole, new)
