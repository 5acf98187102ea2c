"""The inner maximisation of a training step, as one setting that all methods share."""

from __future__ import annotations

import dataclasses

import jax

from advjax import fields, losses, threat
from advjax.attacks.pgd import maximize, objective_of
from advjax.fields import Number, at_least, field, one_of
from advjax.methods.base import Context, Network
from advjax.numbers import number


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

    norm: str = field("linf", help="norm of the threat model: linf, l2 or l1")
    eps: Number = field("8/255", at_least(0), "radius, a number or a fraction such as 8/255")
    steps: int = field(10, at_least(0), "gradients of the inner maximisation")
    step_size: Number = field("2/255", at_least(0), "length of a step, a number or a fraction")
    start: str = field("uniform", one_of(*threat.STARTS, kind="start"), "where the inner maximisation starts")
    statistics: str = field(
        "running",
        one_of("running", "batch", kind="kind of statistics"),
        "of BatchNorm, on which the network is attacked",
    )

    def __post_init__(self) -> None:
        fields.check(self)
        object.__setattr__(self, "norm", threat.canonical_norm(self.norm))

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
