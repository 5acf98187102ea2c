"""MART: misclassification-aware adversarial training (Wang et al. 2020)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from advjax import losses
from advjax.fields import at_least, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Context, Crafted, ExampleLosses, Forwards, PerExample


def mart_loss(
    clean: jax.Array, robust: jax.Array, label: jax.Array, beta: float, target: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """MART's loss per example, its gradient through p(x), the weight 1 - p_y(x) and p(x').

        BCE_i = CE(f(x'), y) - log(1.0001 - p_k*(x') + 1e-12),   k* the most probable wrong class on x'
        KL_i  = sum_k p_k(x) (log p_k(x) - log(p_k(x') + 1e-12))
        loss  = BCE_i + beta (1.0000001 - p_y(x)) KL_i

    Args:
        clean: logits f(x) [B, K].
        robust: logits f(x') [B, K].
        label: true labels [B].
        beta: weight of the second term, lambda in the paper.
        target: what the cross-entropy is against, labels [B] or probabilities [B, K]; `label` if absent.

    Returns:
        The loss and its second term without beta, both [B].
    """
    log_p = jax.nn.log_softmax(clean.astype(jnp.float32))
    p, p_adv = jnp.exp(log_p), jax.nn.softmax(robust.astype(jnp.float32))
    kl = jnp.sum(p * (log_p - jnp.log(p_adv + 1e-12)), -1)
    true = jnp.take_along_axis(p, label[:, None], -1)[:, 0]
    weighted = (1.0000001 - true) * kl
    return losses.boosted_cross_entropy(robust, label, target) + beta * weighted, weighted


@dataclasses.dataclass(frozen=True)
class MART(PerExample):
    """min BCE(f(x'), y) + beta (1 - p_y(x)) KL(p(x) || p(x')) with x' maximising CE(f(x'), y); see `mart_loss`.

    Training forwards: clean, adversarial.

    Attributes:
        attack: the inner maximisation.
        beta: weight of the second term, lambda in the paper.
    """

    attack: TrainingAttack = TrainingAttack(eps="0.031", step_size="0.007", start="normal")
    beta: float = field(5.0, at_least(0), "weight of the KL, lambda in the paper")

    @property
    def weighable(self) -> bool:
        return True

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        x_adv, net = self.attack(context, key, context.nets["model"], context.batch.label)
        return x_adv, {"model": net}

    def forwards(self, context: Context, adversarial: Any) -> Forwards:
        clean, net = context.nets["model"].train(context.batch.image)
        robust, net = net.train(adversarial)
        return {"clean": clean, "robust": robust}, net

    def example_losses(self, context: Context, logits: Mapping[str, jax.Array], target: jax.Array) -> ExampleLosses:
        loss, kl = mart_loss(logits["clean"], logits["robust"], context.batch.label, self.beta, target)
        return context.weighted(loss, logits["robust"]), {"weighted_kl": context.metric(kl)}
