"""The contract between a method and everything that is not a method.

A method says which networks it trains, what state it keeps, how it crafts its adversarial examples and what its loss
is. Loop, devices, checkpoints, data, evaluation and reports know no method by name. `advjax.training.step` turns a
method into one training step per device:

    state.per_example    <- the batch's rows of the per-example state
    adversarial, moved    = method.perturb(context, key)             gradients stopped; the networks that the attack moved
    at                    = method.perturb_weights(context, adversarial, key)    where the gradient is taken: w, but for AWP
    loss, aux             = method.loss(context with params at, adversarial, key)
    w                    <- w + optimizer(mean over devices of d loss / d at)
    networks, state      <- aux
    networks             <- method.after_update(context, adversarial)   what still has to happen at the new parameters

and into what follows the last step of an epoch, for phases that have such an end:

    networks, state      <- method.after_epoch(context)
    statistics of method.recomputed(phase)  <- their average over one more pass

A network inside a step is a value: a training forward returns it with its new statistics, and whoever moved a network
hands it back by name. `update_groups` repeats the middle for networks that step one after the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from advjax import fields, losses, models
from advjax.models.layers import TrainMode

Metric = tuple[jax.Array, jax.Array]


class Batch(NamedTuple):
    """One device's share of a training batch.

    Attributes:
        image: [B, H, W, C] float32 in [0, 1], augmented.
        label: [B] int32.
        id: [B] int32, row in the training set: keys an example's noise and addresses its row of the state; an extra
            example's is beyond the set, its place among those of the epoch, and has no row.
        weight: [B] 1, or 0 for the padding of the last batch.
        views: `Method.views` - 1 further augmentations of the same images, each like `image`.
        target: [B, K] probabilities where CutMix mixed the labels, `label` being the larger part's; else None. Only
            methods with `soft_labels` see it.
    """

    image: jax.Array
    label: jax.Array
    id: jax.Array
    weight: jax.Array
    views: tuple[jax.Array, ...] = ()
    target: jax.Array | None = None


class State(NamedTuple):
    """What a method remembers beyond parameters, statistics and optimizer state. Checkpointed.

    Attributes:
        shared: any pytree, the same on all devices (temperatures, loss weights, first losses).
        per_example: any pytree of arrays with a row per training example, [N, ...]; inside a step, the batch's rows,
            [B, ...].
    """

    shared: Any = ()
    per_example: Any = ()


@dataclasses.dataclass(frozen=True)
class Network:
    """A network inside a step: its module, its variables, and the batch that a training forward belongs to.

    Training forwards return the network with its new statistics, so their order is the order of the assignments:
    `logits, net = net.train(x_adv)`. A pytree.

    Attributes:
        module: the linen module, static.
        params: its parameters.
        stats: its BatchNorm statistics.
        weight: [B] 0 for padding, see `Batch`; None: all count.
        key: of the random numbers (dropout) of its next training forward.
        axis_name: the devices axis over which BatchNorm takes its statistics, static; None: this device's share alone.
        survived: [B] at how many of the points where an attack on it took a gradient an example was classified
            correctly; None where nobody asked (`Context.counting`).
    """

    module: nn.Module
    params: Any
    stats: Any
    weight: jax.Array | None
    key: jax.Array
    axis_name: str | None = None
    survived: jax.Array | None = None

    @property
    def logits_fn(self) -> jax.tree_util.Partial:
        """Evaluation mode: images -> logits on the running statistics; nothing is updated."""
        return models.logits_fn(self.module, {"params": self.params, "batch_stats": self.stats})

    def train(
        self,
        x: jax.Array,
        reuse_logits: jax.Array | None = None,
        momentum: jax.typing.ArrayLike | None = None,
    ) -> tuple[jax.Array, Network]:
        """A training forward.

        Args:
            x: images [B, H, W, C], or several such batches concatenated, [m B, H, W, C], over which BatchNorm then
                normalises as over one.
            reuse_logits: the logits of an earlier training forward of the same images with the same weights. A network
                that draws nothing at random would find the same ones, so it gives back these, and the uses of both
                share one backward.
            momentum: weight of the old running statistics; what the layers have by themselves if absent.

        Returns:
            Logits [m B, K], and the network with the statistics that this forward moved.
        """
        weight = self.weight
        if weight is not None and len(x) != len(weight):
            weight = jnp.tile(weight, len(x) // len(weight))
        key, dropout = jax.random.split(self.key)
        logits, stats = models.training_forward(
            self.module,
            {"params": self.params, "batch_stats": self.stats},
            x,
            TrainMode(weight, self.axis_name, momentum),
            dropout,
        )
        if reuse_logits is not None and not models.is_stochastic(self.module):
            logits = reuse_logits
        return logits, dataclasses.replace(self, stats=stats, key=key)

    def with_stats(self, stats: Any) -> Network:
        """The same network with other running statistics."""
        return dataclasses.replace(self, stats=stats)

    def with_params(self, params: Any) -> Network:
        """The same network with other parameters."""
        return dataclasses.replace(self, params=params)


jax.tree_util.register_dataclass(
    Network, data_fields=("params", "stats", "weight", "key", "survived"), meta_fields=("module", "axis_name")
)

# What parts of the contract give, in the order that `Method` and `PerExample` have them in.
Crafted = tuple[Any, Mapping[str, Network]]
Forwards = tuple[dict[str, jax.Array], Network]
ExampleLosses = tuple[jax.Array, dict[str, Metric]]


class Aux(NamedTuple):
    """What a loss hands back beside its value.

    Attributes:
        nets: the networks whose training forwards moved their statistics, by name.
        state: the new state, `per_example` that of the batch; None if the method keeps none or changes nothing.
        metrics: name -> (sum, count), made by `Context.metric`; added up over devices and steps.
    """

    nets: Mapping[str, Network]
    state: State | None = None
    metrics: Mapping[str, Metric] = {}


@dataclasses.dataclass(frozen=True)
class Context:
    """All that a method may look at in a step.

    Attributes:
        nets: every network by name, trained, averaged and frozen; of the trained ones of this group the parameters are
            those that the gradient is taken at.
        state: shared, and the batch's rows of what is kept per example.
        batch: this device's share.
        epoch: int32, counted from 0, traced.
        epochs: length of the run, static; times are given as fractions of it.
        phase: what `Method.phase` gave for this epoch, hashable, static.
        group: index of the update group, static.
        num_classes: number of classes, K.
        psum: sum over devices (the identity on none); use `mean` and `metric` instead where they do.
        pmax: maximum over devices, likewise; use `extremes` instead where it does.
        step: int32, steps done before this one, traced.
        weigh: what a wrapper (GAIRAT, MAIL) weights the examples by, `(context, logits, name) -> [B]`; see `weighted`.
        counting: whether attacks count where an example still was classified correctly (`Network.survived`), static.
    """

    nets: Mapping[str, Network]
    state: State
    batch: Batch
    epoch: jax.Array
    epochs: int
    phase: Any
    group: int
    num_classes: int
    psum: Callable[[Any], Any]
    pmax: Callable[[Any], Any] = lambda tree: tree
    step: jax.typing.ArrayLike = 0
    weigh: Callable[[Context, jax.Array, str], jax.Array] | None = None
    counting: bool = False

    @property
    def target(self) -> jax.Array:
        """What a cross-entropy is against: labels [B], or probabilities [B, K] where they are mixed."""
        return self.batch.label if self.batch.target is None else self.batch.target

    def mean(self, values: jax.Array, weight: jax.Array | None = None) -> jax.Array:
        """The mean over the global batch, the same on all devices; every state that a loss feeds goes through here.

        Args:
            values: [B], or [m B] for several batches concatenated.
            weight: [B] or [m B], multiplied with the padding mask; `sum(weight values) / sum(mask)`, as GAIRAT and MAIL
                weight their losses. 1 if absent.
        """
        mask = self._mask(values)
        total = values * mask if weight is None else values * weight * mask
        total, count = self.psum((jnp.sum(total), jnp.sum(mask)))
        return total / count

    def weighted(self, values: jax.Array, logits: jax.Array, name: str = "model") -> jax.Array:
        """The part [B] of a loss that is about adversarial examples, each weighted as a wrapper says; without one, itself.

        Args:
            values: per-example losses [B].
            logits: of the adversarial examples, [B, K], from which weights may be taken; no gradient flows through these.
            name: the network that was attacked.
        """
        return values if self.weigh is None else values * jax.lax.stop_gradient(self.weigh(self, logits, name))

    def extremes(self, values: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The least and the greatest of per-example values [B] over the global batch, padding left out."""
        real = self._mask(values) > 0
        greatest = self.pmax(jnp.max(jnp.where(real, values, -jnp.inf)))
        return -self.pmax(jnp.max(jnp.where(real, -values, -jnp.inf))), greatest

    def metric(self, values: jax.Array) -> Metric:
        """(sum, count) of per-example values [B] or [m B], or of one number; averages over steps and devices follow."""
        values = jax.lax.stop_gradient(values)
        if values.ndim == 0:
            return values.astype(jnp.float32), jnp.ones(())
        mask = self._mask(values)
        return jnp.sum(values * mask), jnp.sum(mask)

    def with_params(self, params: Mapping[str, Any]) -> Context:
        """The same context with other parameters for the networks named."""
        return self.with_nets({name: self.nets[name].with_params(value) for name, value in params.items()})

    def with_nets(self, nets: Mapping[str, Network]) -> Context:
        """The same context with other networks in place of those named."""
        return dataclasses.replace(self, nets={**self.nets, **nets})

    def _mask(self, values: jax.Array) -> jax.Array:
        weight = self.batch.weight
        return weight if len(values) == len(weight) else jnp.tile(weight, len(values) // len(weight))


@dataclasses.dataclass(frozen=True)
class Method:
    """Base class: one network called `model`, no state, one phase, one update group, no attack.

    A method is a frozen dataclass: its fields are its hyperparameters, plain values, set by name in `config.method`.
    What a field may be is declared beside it (`advjax.fields`) and checked when the method is made.
    """

    def __post_init__(self) -> None:
        fields.check(self)

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the networks that are trained, each with an optimizer state of its own."""
        return ("model",)

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the networks that are given (teachers): never trained, never checkpointed."""
        return ()

    @property
    def pretrained(self) -> tuple[str, ...]:
        """Names of trained networks that are given as frozen ones are, and trained on from there."""
        return ()

    @property
    def averaged(self) -> Mapping[str, str]:
        """Names of networks that are derived from a trained one (EMA, SWA) -> the network that each starts as.

        They have no optimizer state; one that is among the trained ones, too, is trained from there.
        """
        return {}

    @property
    def evaluated(self) -> tuple[str, ...]:
        """Names of the networks that the report is about; the first chooses the best checkpoint."""
        return self.trained

    @property
    def interchangeable(self) -> bool:
        """Whether the evaluated networks are equals (peers), so that the report gives their mean, too."""
        return False

    @property
    def best_by(self) -> str:
        """`"robust"`, `"clean"` or `"mean"` of both: the accuracy on the validation split that chooses the best epoch."""
        return "robust"

    @property
    def views(self) -> int:
        """How many augmentations of every image a step sees: `Batch.image`, and the others in `Batch.views`."""
        return 1

    @property
    def weighable(self) -> bool:
        """Whether the loss gives the examples weights (`Context.weighted`), so that GAIRAT and MAIL can go around."""
        return False

    @property
    def soft_labels(self) -> bool:
        """Whether attack and loss read the labels by `Context.target` alone, so that CutMix may mix them."""
        return False

    @property
    def divisible(self) -> bool:
        """Whether a batch may be taken in parts, one after the other, and the gradients averaged: the loss is a mean
        of per-example losses that look at nothing of other examples, what is kept is kept per example, what `perturb`
        gives has a row per example, and all networks step together."""
        return False

    @property
    def update_groups(self) -> tuple[tuple[str, ...], ...]:
        """Names that step together, a tuple per optimizer step; by default all step once, from the same parameters."""
        return (self.trained,)

    @property
    def perturb_each_group(self) -> bool:
        """Whether every update group crafts its own examples; otherwise all use those crafted before the first."""
        return False

    def optimizer(
        self, name: str, default: optax.GradientTransformation, epoch: jax.typing.ArrayLike, epochs: int
    ) -> optax.GradientTransformation:
        """What steps the trained network `name`; the run's own transformation, unless its authors use another.

        Args:
            name: of a trained network.
            default: the run's transformation.
            epoch: counted from 0, traced; only rates may depend on it, not what is kept in the optimizer's state.
            epochs: length of the run.
        """
        del name, epoch, epochs
        return default

    def init_state(self, labels: np.ndarray, num_classes: int) -> State:
        """The state before the first step, from the training labels [N]."""
        del labels, num_classes
        return State()

    def phase(self, epoch: int, epochs: int) -> Hashable:
        """What changes the program between epochs (not what merely varies with time: that reads `Context.epoch`).

        Called on the host; every distinct value is compiled once and arrives as `Context.phase`.

        Args:
            epoch: counted from 0.
            epochs: length of the run.
        """
        del epoch, epochs
        return None

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        """The adversarial examples of this batch.

        Returns:
            The examples, or any pytree that the loss wants (gradients are stopped), and the networks whose statistics
            the attack moved, by name.
        """
        del key
        return context.batch.image, {}

    def perturb_weights(self, context: Context, adversarial: Any, key: jax.Array) -> dict[str, Any]:
        """Parameters of this group's networks at which the loss is differentiated; their own, but for AWP."""
        del adversarial, key
        return {name: context.nets[name].params for name in self.update_groups[context.group]}

    def loss(self, context: Context, adversarial: Any, key: jax.Array) -> tuple[jax.Array, Aux]:
        """The loss of this group's networks, a scalar that is the same on all devices, and what else comes out."""
        raise NotImplementedError

    def proxy_loss(self, context: Context, adversarial: Any, key: jax.Array) -> jax.Array:
        """The scalar that AWP's proxy ascends; the loss itself, unless a method's authors ascend another."""
        return self.loss(context, adversarial, key)[0]

    def adaptive_loss(self, context: Context, network: str, x_adv: jax.Array) -> jax.Array | None:
        """What an adaptive attack on a trained network maximises: what the method's loss makes of each image x'.

        Args:
            context: all networks in evaluation mode, their training forwards included; the state as before the first
                step, of the last epoch.
            network: the attacked one's name.
            x_adv: [B, H, W, C].

        Returns:
            [B], no example's depending on another's; None where that is the cross-entropy, or is not said.
        """
        del context, network, x_adv
        return None

    def after_update(self, context: Context, adversarial: Any) -> Mapping[str, Network]:
        """Networks that change once more after the update: statistics at the new parameters, averages.

        Args:
            context: with the new parameters, statistics and state.
            adversarial: as in `loss`.

        Returns:
            The changed networks by name.
        """
        del context, adversarial
        return {}

    def ends(self, phase: Hashable) -> bool:
        """Whether `after_epoch` follows the last step of an epoch of this phase."""
        del phase
        return False

    def after_epoch(self, context: Context) -> tuple[Mapping[str, Network], State | None]:
        """What happens once an epoch is over: averages of epochs, tables made anew.

        Args:
            context: of the state after the last step; it has no batch, and of the state the shared part alone.

        Returns:
            The changed networks by name, and the state with a new shared part; None if that stays.
        """
        del context
        return {}, None

    def recomputed(self, phase: Hashable) -> tuple[str, ...]:
        """Networks whose statistics are made anew after `after_epoch`: their average over one pass over the epoch's
        clean, augmented images in training mode, every batch counting the same."""
        del phase
        return ()


@dataclasses.dataclass(frozen=True)
class PerExample(Method):
    """A method of one network, `model`, whose loss is a mean of per-example losses of the logits.

    Such a method says which training forwards it makes and what an example loses by them; then wrappers may put other
    labels (SGLR) or weights (GAIRAT, MAIL) in between.
    """

    @property
    def divisible(self) -> bool:
        return True

    def forwards(self, context: Context, adversarial: Any) -> Forwards:
        """The training forwards in their order: logits [B, K] by name (`clean`, `robust`, ...), and the network."""
        raise NotImplementedError

    def example_losses(self, context: Context, logits: Mapping[str, jax.Array], target: jax.Array) -> ExampleLosses:
        """Every example's loss [B] and the method's own metrics.

        Args:
            context: the step's context.
            logits: what `forwards` gave.
            target: what the cross-entropy is against: labels [B] or probabilities [B, K].
        """
        raise NotImplementedError

    def images(self, adversarial: Any) -> jax.Array:
        """The adversarial images [B, H, W, C] among what `perturb` gave."""
        return adversarial

    def new_state(self, context: Context, adversarial: Any, logits: Mapping[str, jax.Array]) -> State | None:
        """What the method remembers of this step; None if it keeps no state or changes nothing."""
        del context, adversarial, logits
        return None

    def loss(self, context: Context, adversarial: Any, key: jax.Array) -> tuple[jax.Array, Aux]:
        logits, net = self.forwards(context, adversarial)
        values, metrics = self.example_losses(context, logits, context.target)
        state = self.new_state(context, adversarial, logits)
        return context.mean(values), Aux({"model": net}, state, {**metrics, **accuracy(context, **logits)})

    def adaptive_loss(self, context: Context, network: str, x_adv: Any) -> jax.Array | None:
        return self.example_losses(context, self.forwards(context, x_adv)[0], context.batch.label)[0]


def reached(fraction: float, epoch: int, epochs: int) -> bool:
    """Whether `epoch`, from 0, is at or after epoch round(fraction * epochs), counted from 1: how phases begin."""
    return epoch + 1 >= round(fraction * epochs)


def accuracy(context: Context, **logits: jax.Array) -> dict[str, Metric]:
    """Metrics `clean_accuracy` and `robust_accuracy` from the logits [B, K] of these names; others are passed over."""
    label = context.batch.label
    return {
        f"{name}_accuracy": context.metric(losses.correct(z, label))
        for name, z in logits.items()
        if name in ("clean", "robust")
    }
