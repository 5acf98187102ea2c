"""DYNAT: Dynamic Label Adversarial Training (arXiv 2408.13102)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from advjax import distill, losses
from advjax.fields import at_least, field, one_of
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Aux, Context, Crafted, Method, accuracy


@dataclasses.dataclass(frozen=True)
class DYNAT(Method):
    """A guide g learns clean images with true labels, a target f adversarial images with the guide's labels.

        l  = argmax g(x)                                 guide in training mode, no gradient
        x' = argmax CE(f(x'), l)                         target in evaluation mode; "kl": KL(p_f(x) || p_f(x'))
        min CE(g(x), y) + beta CE(f(x'), l) + kl_weight KL(p_f(x) || p_f(x'))

    All are batch means over [B, K] logits. The target never sees y, and no gradient crosses between the networks; the
    gradient of the KL, where it has a weight, flows through both arguments. Training forwards: of the guide clean; of
    the target adversarial, then clean, by default only to move its statistics (running = 0.81 old + 0.09 adversarial +
    0.10 clean).

    Source: the authors' code. Our reconstruction: the guide's forward moves its statistics once per step, where the
    code's repeated forwards move them eleven times on the same batch; where the KL has a weight (the authors' AWP
    variant), its clean forward is the one that comes last.

    Attributes:
        attack: the inner maximisation.
        beta: weight of the target's loss.
        inner: `"ce"` to the dynamic label, or `"kl"` to the target's own clean prediction ("trades-inner").
        kl_weight: weight of the KL; 1 in the AWP variant, otherwise 0.
        labels: `"dynamic"`, or `"true"`: y in place of l, the control that is PGD-AT once `clean_statistics` is off.
        clean_statistics: whether the target's clean forward happens where the KL has no weight.
        proxy_beta: weight of the KL in the TRADES loss, with true labels, that AWP's proxy ascends.
    """

    attack: TrainingAttack = TrainingAttack(eps="0.031", step_size="0.007", start="normal")
    beta: float = field(1.0, at_least(0), "weight of the target's loss")
    inner: str = field("ce", one_of("ce", "kl"), "what the attack maximises")
    kl_weight: float = field(0.0, at_least(0), "weight of the KL between the target's predictions")
    labels: str = field("dynamic", one_of("dynamic", "true"), "whose labels the target learns")
    clean_statistics: bool = field(True, help="move the target's statistics on clean images, too")
    proxy_beta: float = field(6.0, at_least(0), "weight of the KL in the loss that AWP's proxy ascends")

    @property
    def trained(self) -> tuple[str, ...]:
        return ("target", "guide")

    @property
    def evaluated(self) -> tuple[str, ...]:
        return ("target",)

    @property
    def divisible(self) -> bool:
        return True

    @property
    def weighable(self) -> bool:
        return True

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        x, label, target = context.batch.image, context.batch.label, context.nets["target"]
        if self.labels == "dynamic":
            label = distill.dynamic_labels(context.nets["guide"].train(x)[0])
        if self.inner == "kl":
            x_adv, target = self.attack(context, key, target, jax.nn.softmax(target.logits_fn(x)), "kl")
        else:
            x_adv, target = self.attack(context, key, target, label)
        return (x_adv, label), {"target": target}

    def loss(self, context: Context, adversarial: Any, key: jax.Array) -> tuple[jax.Array, Aux]:
        (x_adv, label), x, y = adversarial, context.batch.image, context.batch.label
        z, guide = context.nets["guide"].train(x)
        robust, target = context.nets["target"].train(x_adv)
        guide_loss = context.mean(losses.cross_entropy(z, y))
        target_loss = context.mean(context.weighted(losses.cross_entropy(robust, label), robust, "target"))
        loss = guide_loss + self.beta * target_loss
        metrics = {
            "guide_loss": context.metric(guide_loss),
            "target_loss": context.metric(target_loss),
            # Once it reaches 1, DYNAT is PGD-AT.
            "label_agreement": context.metric(losses.correct(z, y)),
            **accuracy(context, robust=robust),
        }
        if self.clean_statistics or self.kl_weight:
            clean, target = target.train(x)
            metrics |= accuracy(context, clean=clean)
            if self.kl_weight:
                kl = context.mean(losses.kl(clean, robust))
                loss += self.kl_weight * kl
                metrics["kl"] = context.metric(kl)
        return loss, Aux({"guide": guide, "target": target}, metrics=metrics)

    def proxy_loss(self, context: Context, adversarial: Any, key: jax.Array) -> jax.Array:
        """TRADES on the target with true labels; it does not depend on the guide, which AWP so leaves alone."""
        (x_adv, _), x, y = adversarial, context.batch.image, context.batch.label
        clean, target = context.nets["target"].train(x)
        robust, _ = target.train(x_adv)
        return context.mean(losses.cross_entropy(clean, y) + self.proxy_beta * losses.kl(clean, robust))

    def adaptive_loss(self, context: Context, network: str, x_adv: jax.Array) -> jax.Array | None:
        if network != "target":
            return None
        x, target = context.batch.image, context.nets["target"].logits_fn
        label = context.batch.label
        if self.labels == "dynamic":
            label = distill.dynamic_labels(context.nets["guide"].logits_fn(x))
        values = self.beta * losses.cross_entropy(target(x_adv), label)
        return values + self.kl_weight * losses.kl(target(x), target(x_adv))
