"""TRADES (Zhang et al. 2019)."""

from __future__ import annotations

import dataclasses

import jax

from advjax import losses
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Aux, Method, accuracy


@dataclasses.dataclass(frozen=True)
class TRADES(Method):
    """min CE(f(x), y) + beta KL(p(x) || p(x')) with x' maximising KL(p(x) || p(x')), p(x) fixed in the attack.

    The KL is a batch mean and its gradient flows through both arguments. Training forwards: clean, adversarial, clean
    (running = 0.729 old + 0.181 clean + 0.09 adversarial). Without dropout, the third only moves the statistics.

    Attributes:
        attack: the inner maximisation.
        beta: weight of the KL.
        adversarial_first: the order adversarial, clean, clean instead, as TRADES-AWP's authors have it.
    """

    attack: TrainingAttack = TrainingAttack(eps=0.031, step_size=0.007, start="normal")
    beta: float = 6.0
    adversarial_first: bool = False

    def perturb(self, context, key):
        net = context.nets["model"]
        p_clean = jax.nn.softmax(net.logits_fn(context.batch.image))
        x_adv, net = self.attack(context, key, net, p_clean, "kl")
        return x_adv, net.stats

    def loss(self, context, crafted, key):
        (x_adv, stats), x, y = crafted, context.batch.image, context.batch.label
        net = context.nets["model"].with_stats(stats)
        if self.adversarial_first:
            robust, net = net.train(x_adv)
            clean_again, net = net.train(x)
            clean, net = net.train(x, again=clean_again)
        else:
            clean, net = net.train(x)
            robust, net = net.train(x_adv)
            clean_again, net = net.train(x, again=clean)
        natural = context.mean(losses.cross_entropy(clean, y))
        kl = context.mean(losses.kl(clean_again, robust))
        metrics = {
            "natural_loss": context.metric(natural),
            "kl": context.metric(kl),
            **accuracy(context, clean=clean, robust=robust),
        }
        return natural + self.beta * kl, Aux({"model": net.stats}, metrics=metrics)
