"""RAMP: robustness to a union of norms by logit pairing and a fusion with natural training (Jiang & Singh 2024)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from advjax import losses
from advjax.attacks.apgd import apgd
from advjax.errors import InputError
from advjax.fields import Number, at_least, between, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Aux, Context, Crafted, Method, Network, State
from advjax.numbers import number


def fused(start: jax.Array, attacked: jax.Array, natural: jax.Array, share: float) -> jax.Array:
    """w0 + (1 - share) (w_a - w0) + share max(0, cos(w_a - w0, w_n - w0)) (w_n - w0), of one tensor."""
    a, n = attacked - start, natural - start
    length = jnp.linalg.norm(a.ravel()) * jnp.linalg.norm(n.ravel())
    cosine = jnp.sum(a * n) / jnp.maximum(length, 1e-20)
    return start + (1.0 - share) * a + share * jnp.maximum(cosine, 0.0) * n


@dataclasses.dataclass(frozen=True)
class RAMP(Method):
    """min CE(f(x''), y) + lam KL(p(x_inf) || p(x_1)), fused after every epoch with what natural training makes of it.

    x_inf and x_1 are APGD's points of largest cross-entropy, x'' per image that of the larger one; the KL is a mean over
    the images that are classified correctly at x_inf, no gradient stopped. Within an epoch the network `natural` starts
    from the same w0 (network `start`) and learns clean images; at its end, tensor by tensor, statistics too,

        w = w0 + (1 - share) (w_a - w0) + share max(0, cos(w_a - w0, w_n - w0)) (w_n - w0)

    takes the place of all three. Training forwards: l_1, l_inf, x''; of `natural` clean.

    Source: the paper, and the authors' code where it runs (its fusion lacks an import; its BatchNorm and biases stay at
    learning rate 1, which is not copied). Ours: APGD as AutoAttack has it, from a random point and for l_1 in three
    stages, where theirs starts from x; each network keeps its optimizer state over the fusion.

    Attributes:
        attack: radius and steps of APGD in l_inf; its step size and start are not used.
        l1_eps: radius in l_1.
        lam: weight of the KL.
        share: of natural training in the fusion; 0: no fusion.
    """

    attack: TrainingAttack = TrainingAttack()
    l1_eps: Number = field("12", at_least(0), "radius in l_1")
    lam: float = field(5.0, at_least(0), "weight of the KL between the attacks' predictions")
    share: float = field(0.5, between(0, 1), "of natural training in the fusion of an epoch; 0: none")

    def __post_init__(self) -> None:
        super().__post_init__()
        attack = self.attack
        if attack.norm != "linf" or attack.statistics != "running" or attack.steps < 1 or attack.warmup:
            raise InputError("must be linf, on running statistics, with one step or more, no warmup for RAMP", "attack")

    @property
    def trained(self) -> tuple[str, ...]:
        return ("model", "natural") if self.share else ("model",)

    @property
    def averaged(self) -> Mapping[str, str]:
        return {"start": "model", "natural": "model"} if self.share else {}

    @property
    def evaluated(self) -> tuple[str, ...]:
        return ("model",)

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        batch, logits_fn = context.batch, context.nets["model"].logits_fn
        x_l1, x_linf = (
            apgd(
                logits_fn,
                jax.random.fold_in(key, index),
                batch.image,
                batch.label,
                norm=norm,
                eps=number(eps),
                steps=self.attack.steps,
                ids=batch.id,
            )
            for index, (norm, eps) in enumerate((("l1", self.l1_eps), ("linf", self.attack.eps)))
        )
        worse = (x_l1.loss > x_linf.loss)[:, None, None, None]
        return {"l1": x_l1.best, "linf": x_linf.best, "worse": jnp.where(worse, x_l1.best, x_linf.best)}, {}

    def loss(self, context: Context, adversarial: Any, key: jax.Array) -> tuple[jax.Array, Aux]:
        y, net = context.batch.label, context.nets["model"]
        z_l1, net = net.train(adversarial["l1"])
        z_linf, net = net.train(adversarial["linf"])
        worse, net = net.train(adversarial["worse"])
        right = losses.correct(z_linf, y)
        kl = context.mean(losses.kl(z_linf, z_l1) * right) / jnp.maximum(context.mean(right), 1e-12)
        loss, nets = context.mean(losses.cross_entropy(worse, y)) + self.lam * kl, {"model": net}
        metrics = {
            "kl": context.metric(kl),
            "robust_accuracy": context.metric(losses.correct(worse, y)),
            "linf_accuracy": context.metric(right),
            "l1_accuracy": context.metric(losses.correct(z_l1, y)),
        }
        if self.share:
            clean, nets["natural"] = context.nets["natural"].train(context.batch.image)
            natural = context.mean(losses.cross_entropy(clean, y))
            loss, metrics["natural_loss"] = loss + natural, context.metric(natural)
        return loss, Aux(nets, metrics=metrics)

    def ends(self, phase: Any) -> bool:
        return bool(self.share)

    def after_epoch(self, context: Context) -> tuple[Mapping[str, Network], State | None]:
        names = ("start", "model", "natural")
        nets = [context.nets[name] for name in names]
        at = [(net.params, net.stats) for net in nets]
        params, stats = jax.tree.map(lambda w0, w_a, w_n: fused(w0, w_a, w_n, self.share), *at)
        return {n: net.with_params(params).with_stats(stats) for n, net in zip(names, nets, strict=True)}, None
