"""One training step on one device, made from a method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from advjax import parallel
from advjax.data import augment
from advjax.methods.base import Aux, Batch, Context, Method, Network, State
from advjax.models.layers import TrainMode
from advjax.training.state import TrainState


class Data(NamedTuple):
    """The training set on a device: uint8 images [N, H, W, C] and int32 labels [N]."""

    image: jax.Array
    label: jax.Array


class Order(NamedTuple):
    """The batches of one epoch (`advjax.data.epoch_order`): row numbers and weights, both [steps, batch_size]."""

    rows: jax.Array
    weight: jax.Array


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """What a step needs to know beside the method.

    Attributes:
        seed: root of all randomness of the run.
        num_classes: number of classes.
        augment: kind of augmentation, `advjax.data.augment`.
        batch_norm: `"global"`: statistics over the whole batch, so that one device equals four; `"device"`: over each
            device's share.
        devices: number of devices that the batch is cut over.
        epochs: length of the run.
    """

    seed: int
    num_classes: int
    augment: str
    batch_norm: str
    devices: int
    epochs: int


def make_step(
    method: Method,
    modules: Mapping[str, nn.Module],
    optimizer: optax.GradientTransformation,
    config: StepConfig,
    phase: Hashable,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """The per-device function `(state, frozen, data, order) -> (state, metrics)`, to be mapped over devices.

    It reads its batch from `order` by the step counter, so that nothing but the call itself comes from the host.
    `frozen` is name -> variables of the given networks; `metrics` is name -> [sum, count] over the whole batch.

    Args:
        method: what is trained.
        modules: name -> module, of every network.
        optimizer: applied to each trained network on its own.
        config: see `StepConfig`.
        phase: what `method.phase` gave; another phase is another step.
    """

    def step(state: TrainState, frozen, data: Data, order: Order):
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        context = _context(state, frozen, data, order, key)
        attack_key, loss_key = jax.random.fold_in(key, 1), jax.random.fold_in(key, 2)
        params, opt_state = dict(state.params), dict(state.opt_state)
        metrics: dict[str, Any] = {}
        crafted = None
        for index, names in enumerate(method.rounds):
            context = dataclasses.replace(context, round=index)
            if index == 0 or method.perturb_each_round:
                crafted = jax.lax.stop_gradient(method.perturb(context, jax.random.fold_in(attack_key, index)))
            round_key = jax.random.fold_in(loss_key, index)
            at = method.displace(context, crafted, round_key)

            def loss(at, context=context, crafted=crafted, key=round_key):
                return method.loss(context.with_params(at), crafted, key)

            (value, aux), gradients = jax.value_and_grad(loss, has_aux=True)(at)
            # The loss is a sum over all devices, and the transpose of psum is psum: every device's gradient is the
            # derivative of the sum of all devices' (equal) losses, so the mean over devices is the gradient.
            gradients = jax.lax.pmean(gradients, parallel.AXIS)
            for name in names:
                updates, opt_state[name] = optimizer.update(gradients[name], opt_state[name], at[name])
                params[name] = optax.apply_updates(params[name], updates)
            context = _advance(context, params, aux, names)
            totals = {"loss": context.metric(value), **aux.metrics}
            # By name, so that rounds that report the same quantity average over it.
            metrics |= {n: jax.tree.map(jnp.add, metrics[n], m) if n in metrics else m for n, m in totals.items()}
        context = context.with_nets(method.settle(context, crafted))
        metrics = parallel.psum({name: jnp.stack(pair) for name, pair in metrics.items()})
        return _new_state(state, context, opt_state), metrics

    def _context(state, frozen, data, order, key) -> Context:
        steps, size = order.rows.shape
        share = size // config.devices
        row = state.step % steps
        first = jax.lax.axis_index(parallel.AXIS) * share
        index = jax.lax.dynamic_slice(order.rows, (row, first), (1, share))[0]
        weight = jax.lax.dynamic_slice(order.weight, (row, first), (1, share))[0]
        image = augment(jax.random.fold_in(key, 0), data.image[index], index, config.augment)
        mode = TrainMode(weight, parallel.AXIS if config.batch_norm == "global" else None)
        variables = {name: (state.params[name], state.stats[name]) for name in state.params}
        variables |= {name: (value["params"], value["batch_stats"]) for name, value in frozen.items()}
        return Context(
            nets={
                name: Network(modules[name], *variables[name], mode, jax.random.fold_in(key, 3 + number))
                for number, name in enumerate(sorted(variables))
            },
            state=State(state.method.shared, jax.tree.map(lambda rows: rows[index], state.method.rows)),
            batch=Batch(image, data.label[index], index, weight),
            epoch=state.step // steps,
            epochs=config.epochs,
            phase=phase,
            round=0,
            num_classes=config.num_classes,
            psum=parallel.psum,
        )

    def _advance(context: Context, params, aux: Aux, names) -> Context:
        """After the update: new parameters of this round, new statistics, new state."""
        stats = dict(aux.stats)
        if config.batch_norm == "device":
            stats = jax.lax.pmean(stats, parallel.AXIS)
        context = context.with_params({name: params[name] for name in names})
        context = context.with_nets({name: context.nets[name].with_stats(value) for name, value in stats.items()})
        return context if aux.state is None else dataclasses.replace(context, state=aux.state)

    def _new_state(state: TrainState, context: Context, opt_state) -> TrainState:
        return TrainState(
            step=state.step + 1,
            params={name: context.nets[name].params for name in state.params},
            stats={name: context.nets[name].stats for name in state.stats},
            opt_state=opt_state,
            method=State(context.state.shared, _scatter(state.method.rows, context)),
        )

    def _scatter(rows, context: Context):
        """Writes the batch's rows, gathered from all devices, into the state's; padding writes nothing."""
        if not jax.tree.leaves(rows):
            return rows
        id, weight, new = jax.lax.all_gather(
            (context.batch.id, context.batch.weight, context.state.rows), parallel.AXIS, tiled=True
        )

        def write(old, new):
            return old.at[jnp.where(weight > 0, id, len(old))].set(new, mode="drop")

        return jax.tree.map(write, rows, new)

    return step
