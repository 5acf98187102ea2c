"""DYNAT: Dynamic Label Adversarial Training (arXiv 2408.13102)."""

from __future__ import annotations

import dataclasses

import jax

from advjax import distill, losses
from advjax.errors import unknown
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Aux, Method, accuracy
from advjax.numbers import check_range

INNER = ("ce", "kl")
LABELS = ("dynamic", "true")


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

    attack: TrainingAttack = TrainingAttack(eps=0.031, step_size=0.007, start="normal")
    beta: float = 1.0
    inner: str = "ce"
    kl_weight: float = 0.0
    labels: str = "dynamic"
    clean_statistics: bool = True
    proxy_beta: float = 6.0

    def __post_init__(self):
        if self.inner not in INNER:
            raise unknown("inner objective (method.inner)", self.inner, INNER)
        if self.labels not in LABELS:
            raise unknown("labels (method.labels)", self.labels, LABELS)
        for field in ("beta", "kl_weight", "proxy_beta"):
            check_range(getattr(self, field), f"method.{field}")

    @property
    def trained(self):
        return ("target", "guide")

    @property
    def evaluated(self):
        return ("target",)

    def perturb(self, context, key):
        x, label, target = context.batch.image, context.batch.label, context.nets["target"]
        if self.labels == "dynamic":
            label = distill.dynamic_labels(context.nets["guide"].train(x)[0])
        if self.inner == "kl":
            x_adv, target = self.attack(context, key, target, jax.nn.softmax(target.logits_fn(x)), "kl")
        else:
            x_adv, target = self.attack(context, key, target, label)
        return x_adv, label, target.stats

    def loss(self, context, crafted, key):
        (x_adv, label, stats), x, y = crafted, context.batch.image, context.batch.label
        z, guide = context.nets["guide"].train(x)
        robust, target = context.nets["target"].with_stats(stats).train(x_adv)
        guide_loss = context.mean(losses.cross_entropy(z, y))
        target_loss = context.mean(losses.cross_entropy(robust, label))
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
        return loss, Aux({"guide": guide.stats, "target": target.stats}, metrics=metrics)

    def proxy_loss(self, context, crafted, key):
        """TRADES on the target with true labels; it does not depend on the guide, which AWP so leaves alone."""
        (x_adv, _, stats), x, y = crafted, context.batch.image, context.batch.label
        clean, target = context.nets["target"].with_stats(stats).train(x)
        robust, _ = target.train(x_adv)
        return context.mean(losses.cross_entropy(clean, y) + self.proxy_beta * losses.kl(clean, robust))
