"""The inner maximisation of a training step, as one setting that all methods share."""

from __future__ import annotations

import dataclasses

import jax

from advjax import losses, threat
from advjax.attacks.pgd import maximize, objective_of
from advjax.errors import InputError, unknown
from advjax.methods.base import Context, Network
from advjax.numbers import Number, number

STATISTICS = ("running", "batch")


@dataclasses.dataclass(frozen=True)
class TrainingAttack:
    """PGD as a training step runs it.

    Attributes:
        norm: `"linf"`, `"l2"` or `"l1"`.
        eps: radius; a number or a fraction such as `"8/255"`.
        steps: number of gradients.
        step_size: length of a step, a number or a fraction.
        start: see `advjax.threat.random_start`.
        statistics: `"running"`: the network is attacked in evaluation mode, the saner default; `"batch"`: on batch
            statistics, and every forward of the attack moves the running ones, as the code of PGD-AT, FGSM-RS, ARD and
            KD+SWA does.
    """

    norm: str = "linf"
    eps: Number = "8/255"
    steps: int = 10
    step_size: Number = "2/255"
    start: str = "uniform"
    statistics: str = "running"

    def __post_init__(self) -> None:
        object.__setattr__(self, "norm", threat.canonical_norm(self.norm))
        number(self.eps, "attack.eps")
        number(self.step_size, "attack.step_size")
        if self.start not in threat.STARTS:
            raise unknown("start (attack.start)", self.start, threat.STARTS)
        if self.statistics not in STATISTICS:
            raise unknown("statistics (attack.statistics)", self.statistics, STATISTICS)
        if self.steps < 0:
            raise InputError(f"attack.steps must be at least 0, it is {self.steps}")

    def __call__(
        self,
        context: Context,
        key: jax.Array,
        net: Network,
        target: jax.Array,
        objective: str | losses.Objective = "ce",
    ) -> tuple[jax.Array, Network]:
        """Adversarial examples of the batch for `net`.

        Args:
            context: the step's context.
            key: random key.
            net: the network attacked.
            target: labels [B] or what the objective takes.
            objective: name or function `(logits, target) -> [B]`.

        Returns:
            Images [B, H, W, C], and the network, whose statistics have moved if `statistics` is `"batch"`.
        """
        if self.statistics == "running":
            return self.craft(context, key, objective_of(net.logits_fn, target, objective)), net
        loss = losses.objective(objective)

        def on_batch_statistics(x_adv, stats):
            logits, moved = net.with_stats(stats).train(x_adv)
            # Padding must not pull on the batch statistics that the others are attacked on.
            return loss(logits, target) * context.batch.weight, moved.stats

        x_adv, stats = self._maximize(context, key, on_batch_statistics, net.stats)
        return x_adv, net.with_stats(stats)

    def craft(self, context: Context, key: jax.Array, objective) -> jax.Array:
        """Examples that maximise any objective `(x', aux) -> ([B], aux)` (see `advjax.attacks.maximize`)."""
        return self._maximize(context, key, objective, ())[0]

    def _maximize(self, context, key, objective, aux):
        x, ids, eps = context.batch.image, context.batch.id, number(self.eps)
        start = threat.random_start(jax.random.fold_in(key, 0), x, ids, self.norm, eps, self.start)
        return maximize(
            objective,
            x,
            start,
            norm=self.norm,
            eps=eps,
            step_size=number(self.step_size),
            steps=self.steps,
            key=jax.random.fold_in(key, 1),
            ids=ids,
            aux=aux,
        )
