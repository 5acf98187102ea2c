"""ReBAT (Wang et al. 2023) and RPAT++, which takes the place of its regulariser."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any

import jax

from advjax import losses
from advjax.fields import Number, at_least, at_least_below, between, field, one_of
from advjax.methods.attack import TrainingAttack
from advjax.methods.averaging import mixed
from advjax.methods.base import Context, Crafted, ExampleLosses, Forwards, Network, PerExample, reached
from advjax.methods.pgd_at import PGDAT


@dataclasses.dataclass(frozen=True)
class ReBAT(PGDAT):
    """PGD-AT that, once its learning rate has dropped, is held near its own weight average v (network `average`).

        min CE(f(x'), y) + beta KL(p_v(x') || p(x'))           v in evaluation mode, no gradient through it
        v <- decay v + (1 - decay) w                           parameters and statistics, after each step

    With `regulariser="middle"` (RPAT++): beta KL(softmax(v((x + x')/2) - v(x)/2) || softmax(f(x')/2)).

    Before epoch `start` v is w, and this is PGD-AT. From epoch `late` on the attack may be a stronger one (ReBAT++).
    Training forwards: adversarial; then, at the updated weights, clean. v moves after that.

    Source: the authors' code (start 105 of 200 epochs, counted from 0; ReBAT++: eps 10/255 and 12 steps from epoch
    100). In its first regularised epoch the code leaves v in training mode, which is not copied.

    Attributes:
        attack: the inner maximisation.
        label_smoothing: see `PGDAT`.
        clean_statistics: see `PGDAT`.
        beta: weight of the KL.
        decay: of v.
        start: v leaves w with epoch round(start * epochs), counted from 1.
        regulariser: `"same"` or `"middle"`, see above.
        late: the later attack begins with epoch round(late * epochs), counted from 1.
        late_eps: its radius.
        late_steps: its number of gradients; 0: there is none.
    """

    beta: float = field(1.0, at_least(0), "weight of the KL to the average")
    decay: float = field(0.999, at_least_below(0, 1), "share of the old average")
    start: float = field(106 / 200, between(0, 1), "fraction of the run at which the average leaves the network")
    regulariser: str = field("same", one_of("same", "middle"), "what of the average the network is held near to")
    late: float = field(101 / 200, between(0, 1), "fraction of the run at which the later attack begins")
    late_eps: Number = field("10/255", at_least(0), "radius of the later attack")
    late_steps: int = field(0, at_least(0), "gradients of the later attack; 0: there is none")

    @property
    def averaged(self) -> Mapping[str, str]:
        return {"average": "model"}

    @property
    def evaluated(self) -> tuple[str, ...]:
        return ("average", "model")

    def phase(self, epoch: int, epochs: int) -> Hashable:
        late = bool(self.late_steps) and reached(self.late, epoch, epochs)
        return reached(self.start, epoch, epochs), late

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        attack: TrainingAttack = self.attack
        if context.phase[1]:
            attack = dataclasses.replace(attack, eps=self.late_eps, steps=self.late_steps)
        x_adv, net = attack(context, key, context.nets["model"], context.target)
        return x_adv, {"model": net}

    def forwards(self, context: Context, adversarial: Any) -> Forwards:
        logits, net = super().forwards(context, adversarial)
        if not context.phase[0]:
            return logits, net
        x, average = context.batch.image, context.nets["average"].logits_fn
        if self.regulariser == "same":
            return {**logits, "average": average(adversarial)}, net
        return {**logits, "average": average((x + adversarial) / 2.0) - average(x) / 2.0}, net

    def example_losses(self, context: Context, logits: Mapping[str, jax.Array], target: jax.Array) -> ExampleLosses:
        values, metrics = super().example_losses(context, logits, target)
        if not context.phase[0]:
            return values, metrics
        robust = logits["robust"] if self.regulariser == "same" else logits["robust"] / 2.0
        kl = losses.kl(jax.lax.stop_gradient(logits["average"]), robust)
        return values + self.beta * kl, {**metrics, "kl": context.metric(kl)}

    def after_update(self, context: Context, adversarial: Any) -> Mapping[str, Network]:
        moved = super().after_update(context, adversarial)
        net, average = context.with_nets(moved).nets["model"], context.nets["average"]
        share = self.decay if context.phase[0] else 0.0
        params, stats = mixed((average.params, average.stats), (net.params, net.stats), share)
        return {**moved, "average": average.with_params(params).with_stats(stats)}

    def adaptive_loss(self, context: Context, network: str, x_adv: jax.Array) -> jax.Array | None:
        return PerExample.adaptive_loss(self, context, network, x_adv)
