"""Consistency-AT: consistency regularisation of attacks on two augmentations (Tack et al. 2022)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from advjax import losses
from advjax.fields import above, at_least, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Context, Crafted, ExampleLosses, Forwards, PerExample


def jensen_shannon(one: jax.Array, other: jax.Array, temperature: float) -> jax.Array:
    """JS(softmax(one/T), softmax(other/T)) of logits [B, K], the logarithm's argument at least 1e-8; -> [B]."""
    p, q = (jax.nn.softmax(z.astype(jnp.float32) / temperature) for z in (one, other))
    log_m = jnp.log(jnp.maximum((p + q) / 2.0, 1e-8))
    to_p, to_q = (jnp.sum(-jax.scipy.special.entr(each) - each * log_m, -1) for each in (p, q))
    return 0.5 * (to_p + to_q)


@dataclasses.dataclass(frozen=True)
class ConsistencyAT(PerExample):
    """min CE over the attacks on two augmentations of every image + lam JS(p(x1')^(1/T), p(x2')^(1/T)).

    Attacks as in PGD-AT, each with noise of its own; no gradient of the JS is stopped. Training forwards: one, of both
    adversarial views as one batch. Source: the authors' code.

    Attributes:
        attack: the inner maximisation.
        lam: weight of the JS.
        temperature: T.
    """

    attack: TrainingAttack = TrainingAttack()
    lam: float = field(1.0, at_least(0), "weight of the divergence between the views")
    temperature: float = field(0.5, above(0), "of the predictions that are compared")

    @property
    def views(self) -> int:
        return 2

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        net, made = context.nets["model"], []
        for number, image in enumerate((context.batch.image, *context.batch.views)):
            view = dataclasses.replace(context, batch=context.batch._replace(image=image))
            x_adv, net = self.attack(view, jax.random.fold_in(key, number), net, context.batch.label)
            made.append(x_adv)
        return jnp.concatenate(made), {"model": net}

    def images(self, adversarial: Any) -> jax.Array:
        return jnp.split(adversarial, 2)[0]

    def forwards(self, context: Context, adversarial: Any) -> Forwards:
        logits, net = context.nets["model"].train(adversarial)
        robust, other = jnp.split(logits, 2)
        return {"robust": robust, "other": other}, net

    def example_losses(self, context: Context, logits: Mapping[str, jax.Array], target: jax.Array) -> ExampleLosses:
        pair = logits["robust"], logits["other"]
        entropies = [losses.cross_entropy(z, target) for z in pair]
        js = jensen_shannon(*pair, self.temperature)
        return (entropies[0] + entropies[1]) / 2.0 + self.lam * js, {"js": context.metric(js)}

    def adaptive_loss(self, context: Context, network: str, x_adv: jax.Array) -> jax.Array | None:
        return None  # the rest of the loss is of two augmentations, which a test image has not
