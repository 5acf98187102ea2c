"""LBGAT: Learnable Boundary Guided Adversarial Training (Cui et al., arXiv 2011.11164, ICCV 2021)."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from advjax import losses
from advjax.fields import at_least, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Aux, Context, Crafted, Method, accuracy


@dataclasses.dataclass(frozen=True)
class LBGAT(Method):
    """A target f takes on adversarial images the logits that a guide g, in training itself, has on the clean ones.

        x' = argmax KL(p_f(x) || p_f(x'))               p_f(x) fixed
        min CE(g(x), y) + 1/(B C) ||f(x') - g(x)||^2 + beta KL(p_f(x) || p_f(x'))

    The gradient of the squared difference reaches both networks, that of the KL (a batch mean) flows through both
    arguments. Training forwards: of the target adversarial, then clean (at beta 0 only to move its statistics); of the
    guide clean, once.

    Source: the authors' code.

    Attributes:
        attack: the inner maximisation, on the target alone.
        beta: weight of the KL, 0 or 6 in the paper.
    """

    attack: TrainingAttack = TrainingAttack(eps="0.031", step_size="0.007", start="normal")
    beta: float = field(0.0, at_least(0), "weight of the KL")

    @property
    def divisible(self) -> bool:
        return True

    @property
    def trained(self) -> tuple[str, ...]:
        return ("target", "guide")

    @property
    def evaluated(self) -> tuple[str, ...]:
        return ("target",)

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        target = context.nets["target"]
        p_clean = jax.nn.softmax(target.logits_fn(context.batch.image))
        x_adv, target = self.attack(context, key, target, p_clean, "kl")
        return x_adv, {"target": target}

    def loss(self, context: Context, adversarial: Any, key: jax.Array) -> tuple[jax.Array, Aux]:
        x, y = context.batch.image, context.batch.label
        robust, target = context.nets["target"].train(adversarial)
        clean, target = target.train(x)
        z, guide = context.nets["guide"].train(x)
        terms = {
            "guide_loss": losses.cross_entropy(z, y),
            "boundary_loss": jnp.mean((robust - z) ** 2, -1),
            "kl": losses.kl(clean, robust),
        }
        values = terms["guide_loss"] + terms["boundary_loss"] + self.beta * terms["kl"]
        metrics = {name: context.metric(term) for name, term in terms.items()}
        metrics |= accuracy(context, robust=robust, clean=clean)
        return context.mean(values), Aux({"target": target, "guide": guide}, metrics=metrics)

    def adaptive_loss(self, context: Context, network: str, x_adv: jax.Array) -> jax.Array | None:
        x, target, guide = context.batch.image, context.nets["target"].logits_fn, context.nets["guide"].logits_fn
        robust = target(x_adv)
        return jnp.mean((robust - guide(x)) ** 2, -1) + self.beta * losses.kl(target(x), robust)
