"""SGLR: Soften to Defend, Self-Guided Label Refinement (arXiv 2403.09101, CVPR 2024)."""

from __future__ import annotations

import dataclasses
import math

import jax

from advjax import distill, losses
from advjax.errors import InputError, unknown
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Aux, Method, State, accuracy, reached
from advjax.methods.mart import mart_loss
from advjax.numbers import check_range

BASES = ("at", "trades", "mart")


@dataclasses.dataclass(frozen=True)
class SGLR(Method):
    """One network, trained from an epoch on with a running memory S [N, K] of its own softened predictions.

        x'    = argmax CE(f(x'), y)                  always against the true label; TRADES: KL(p(x) || p(x'))
        q     = w_c softmax(f(x)/T) + (1 - w_c) softmax(f(x')/T)           self-guided refinement, training mode
        S[i] <- alpha S[i] + (1 - alpha) q                                 self-distillation over time, S starts one-hot
        t     = r S[i] + (1 - r) onehot(y)
        min CE(f(x'), t)                                                   no gradient through S

    Before epoch es t is y and S rests. TRADES+SGLR puts t in its natural loss, CE(f(x), t) + beta KL(p(x) || p(x'));
    MART+SGLR in the cross-entropy of its BCE, while the wrong class k* and the weight 1 - p_y(x) keep y.

    Training forwards before es: AT adversarial, TRADES and MART clean, adversarial. From es on: AT adversarial, clean
    (no gradient); TRADES clean, adversarial (for S), adversarial (for the KL); MART clean, adversarial.

    Source: the authors' code (w_c 0.2, alpha 0.9, r 1, T 1; es 90 of 200 epochs). Our reconstruction: the general form
    in w_c, alpha, r and T, of which w_c 0, alpha 0, 0 < r < 1 is the one equation known of the paper; es as a fraction;
    es of TRADES and MART; the order of MART's forwards.

    Attributes:
        attack: the inner maximisation.
        base: `"at"`, `"trades"` or `"mart"`.
        beta: weight of the second term of TRADES and MART.
        clean_weight: w_c, share of the clean prediction in q.
        alpha: share of the old memory.
        r: share of the memory in the label.
        temperature: T.
        es: S is used from epoch round(es * epochs) on, counted from 1.
    """

    attack: TrainingAttack = TrainingAttack()
    base: str = "at"
    beta: float = 6.0
    clean_weight: float = 0.2
    alpha: float = 0.9
    r: float = 1.0
    temperature: float = 1.0
    es: float = 0.45

    def __post_init__(self):
        if self.base not in BASES:
            raise unknown("base (method.base)", self.base, BASES)
        for field, high in (("beta", math.inf), ("clean_weight", 1), ("alpha", 1), ("r", 1), ("es", 1)):
            check_range(getattr(self, field), f"method.{field}", 0, high)
        if not self.temperature > 0:
            raise InputError(f"method.temperature must be above 0, it is {self.temperature}")

    def init_state(self, labels, num_classes):
        return State(rows=distill.label_memory(labels, num_classes))

    def phase(self, epoch, epochs):
        return "refine" if reached(self.es, epoch, epochs) else "plain"

    def perturb(self, context, key):
        target, objective, net = context.batch.label, "ce", context.nets["model"]
        if self.base == "trades":
            target, objective = jax.nn.softmax(net.logits_fn(context.batch.image)), "kl"
        x_adv, net = self.attack(context, key, net, target, objective)
        return x_adv, net.stats

    def loss(self, context, crafted, key):
        y, memory = context.batch.label, context.state.rows
        logits, net = self._forwards(context, crafted)
        metrics = accuracy(context, **logits)
        target = y
        if context.phase == "refine":
            refined = distill.refine_labels(logits["clean"], logits["robust"], self.clean_weight, self.temperature)
            memory = distill.remember(memory, refined, self.alpha)
            target = distill.mix_with_labels(memory, y, self.r)
            metrics["memory_entropy"] = context.metric(distill.label_entropy(memory))
            metrics["memory_agreement"] = context.metric(losses.correct(memory, y))
        loss = context.mean(self._losses(logits, target, y))
        return loss, Aux({"model": net.stats}, State(rows=memory), metrics)

    def _forwards(self, context, crafted):
        (x_adv, stats), x, refine = crafted, context.batch.image, context.phase == "refine"
        net = context.nets["model"].with_stats(stats)
        if self.base == "at":
            robust, net = net.train(x_adv)
            if not refine:
                return {"robust": robust}, net
            clean, net = net.train(x)
            return {"clean": clean, "robust": robust}, net
        clean, net = net.train(x)
        robust, net = net.train(x_adv)
        if self.base == "trades" and refine:
            robust, net = net.train(x_adv)  # as its authors, who forward x' once for S and once for the KL
        return {"clean": clean, "robust": robust}, net

    def _losses(self, logits, target, label):
        clean, robust = logits.get("clean"), logits["robust"]
        if self.base == "at":
            return losses.cross_entropy(robust, target)
        if self.base == "trades":
            return losses.cross_entropy(clean, target) + self.beta * losses.kl(clean, robust)
        return mart_loss(clean, robust, label, self.beta, target)[0]
