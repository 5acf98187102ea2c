"""TRADES (Zhang et al. 2019)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from advjax import losses
from advjax.fields import at_least, field, one_of
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Context, Crafted, ExampleLosses, Forwards, PerExample

ORDERS = one_of("clean-adv-clean", "adv-clean-clean", "clean-adv", kind="order")


@dataclasses.dataclass(frozen=True)
class TRADES(PerExample):
    """min CE(f(x), y) + beta KL(p(x) || p(x')) with x' maximising KL(p(x) || p(x')), p(x) fixed in the attack.

    The KL is a batch mean and its gradient flows through both arguments. Training forwards: clean, adversarial, clean
    (running = 0.729 old + 0.181 clean + 0.09 adversarial). Without dropout, the third only moves the statistics.

    Attributes:
        attack: the inner maximisation.
        beta: weight of the KL.
        order: of the training forwards, and so of what the statistics remember. TRADES-AWP's authors have adversarial,
            clean, clean; those of SGLR leave out the second clean forward. Where there are two clean ones, the KL is
            taken with the one beside the adversarial forward and the cross-entropy with the other.
    """

    attack: TrainingAttack = TrainingAttack(eps="0.031", step_size="0.007", start="normal")
    beta: float = field(6.0, at_least(0), "weight of the KL")
    order: str = field("clean-adv-clean", ORDERS, "of the forwards")

    @property
    def weighable(self) -> bool:
        return True

    @property
    def soft_labels(self) -> bool:
        return True

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        net = context.nets["model"]
        p_clean = jax.nn.softmax(self.attack.logits(net, context.batch.image))
        x_adv, net = self.attack(context, key, net, p_clean, "kl")
        return x_adv, {"model": net}

    def momentum(self, context: Context) -> jax.Array | None:
        """Weight of the old running statistics in the training forwards; None: the network's own."""
        del context
        return None

    def forwards(self, context: Context, adversarial: Any) -> Forwards:
        x, net, momentum = context.batch.image, context.nets["model"], self.momentum(context)
        if self.order == "adv-clean-clean":
            robust, net = net.train(adversarial, momentum=momentum)
            beside, net = net.train(x, momentum=momentum)
            clean, net = net.train(x, reuse_logits=beside, momentum=momentum)
        else:
            clean, net = net.train(x, momentum=momentum)
            robust, net = net.train(adversarial, momentum=momentum)
            beside = clean
            if self.order == "clean-adv-clean":
                beside, net = net.train(x, reuse_logits=clean, momentum=momentum)
        return {"clean": clean, "robust": robust, "beside": beside}, net

    def example_losses(self, context: Context, logits: Mapping[str, jax.Array], target: jax.Array) -> ExampleLosses:
        natural = losses.cross_entropy(logits["clean"], target)
        kl = losses.kl(logits["beside"], logits["robust"])
        weighted = context.weighted(kl, logits["robust"])
        return natural + self.beta * weighted, {"natural_loss": context.metric(natural), "kl": context.metric(kl)}
