"""DKL and IKL: adversarial training with a decoupled KL divergence (Cui et al. 2023)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advjax import losses
from advjax.fields import above, at_least, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Context, Crafted, ExampleLosses, Forwards, Network, PerExample, State


@dataclasses.dataclass(frozen=True)
class DKL(PerExample):
    """IKL-AT: the KL of TRADES taken apart, its weighted distance of logits given class-wise weights and both gradients.

        min CE(f(x), y) + alpha CE(sg p(x), p(x')) + beta/4 sum_jk q_j q_k (dz_jk(x) - dz_jk(x'))^2

    dz_jk = z_j - z_k; q is row y of a table [K, K]: the class means of softmax(f(x)/T) over the last epoch, 1/K in the
    first, to the power gamma and normalised. x' maximises the second term, plus the third times `attack_beta` where
    that is not 0, p(x) and z(x) fixed; radius and step grow linearly with the epoch, the last one's being the whole.

    Training forwards: adversarial, clean. Source: the authors' code (inside AWP, gamma 0.005 from epoch 10 of 200, and
    an EMA of epochs with decay 0.9: `dkl_awp_ema`; its second version has gamma 0.2 on CIFAR-10, 0.4 on CIFAR-100, T 1).

    Attributes:
        attack: the inner maximisation, its radius and step those of the last epoch.
        alpha: weight of the cross-entropy between the predictions.
        beta: weight of the distance of logits.
        temperature: T.
        gamma: exponent of the class means.
        attack_beta: weight of the distance of logits in the attack: 0 on CIFAR-10, 1 on CIFAR-100.
    """

    attack: TrainingAttack = TrainingAttack(steps=5, step_size="4/255", start="normal", warmup=1.0)
    alpha: float = field(4.0, at_least(0), "weight of the cross-entropy between the predictions")
    beta: float = field(20.0, at_least(0), "weight of the distance of logits")
    temperature: float = field(4.0, above(0), "of the class means that weight the logits")
    gamma: float = field(1.0, at_least(0), "exponent of the class means")
    attack_beta: float = field(0.0, at_least(0), "weight of the distance of logits in the attack")

    @property
    def divisible(self) -> bool:
        return False

    def init_state(self, labels: np.ndarray, num_classes: int) -> State:
        table = jnp.full((num_classes, num_classes), 1.0 / num_classes)
        return State(shared={"table": table, "sums": jnp.zeros_like(table), "counts": jnp.zeros(num_classes)})

    def _weights(self, context):
        q = context.state.shared["table"][context.batch.label] ** self.gamma
        return q / jnp.sum(q, -1, keepdims=True)

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        net = context.nets["model"]
        z, q = net.logits_fn(context.batch.image), self._weights(context)

        def objective(z_adv, fixed):
            z, q = fixed
            values = losses.cross_entropy(z_adv, jax.nn.softmax(z))
            return values + self.attack_beta / 4.0 * distance(z - z_adv, q) if self.attack_beta else values

        x_adv, net = self.attack(context, key, net, (z, q), objective)
        return x_adv, {"model": net}

    def forwards(self, context: Context, adversarial: Any) -> Forwards:
        robust, net = context.nets["model"].train(adversarial)
        clean, net = net.train(context.batch.image)
        return {"robust": robust, "clean": clean}, net

    def example_losses(self, context: Context, logits: Mapping[str, jax.Array], target: jax.Array) -> ExampleLosses:
        clean, robust = logits["clean"], logits["robust"]
        natural = losses.cross_entropy(clean, target)
        soft = losses.cross_entropy(robust, jax.lax.stop_gradient(jax.nn.softmax(clean)))
        apart = distance(clean - robust, self._weights(context)) / 4.0
        terms = {"natural_loss": natural, "soft_loss": soft, "logit_distance": apart}
        metrics = {name: context.metric(value) for name, value in terms.items()}
        return natural + self.alpha * soft + self.beta * apart, metrics

    def new_state(self, context: Context, adversarial: Any, logits: Mapping[str, jax.Array]) -> State | None:
        of_class = jax.nn.one_hot(context.batch.label, context.num_classes) * context.batch.weight[:, None]
        p = jax.nn.softmax(jax.lax.stop_gradient(logits["clean"]) / self.temperature)
        sums, counts = context.psum((of_class.T @ p, jnp.sum(of_class, 0)))
        old = context.state.shared
        new = {**old, "sums": old["sums"] + sums, "counts": old["counts"] + counts}
        return context.state._replace(shared=new)

    def ends(self, phase: Any) -> bool:
        return True

    def after_epoch(self, context: Context) -> tuple[Mapping[str, Network], State | None]:
        old = context.state.shared
        counts = old["counts"][:, None]
        table = jnp.where(counts > 0, old["sums"] / jnp.maximum(counts, 1.0), old["table"])
        empty = {"sums": jnp.zeros_like(table), "counts": jnp.zeros_like(old["counts"])}
        return {}, State(shared={"table": table, **empty})


def distance(d: jax.Array, q: jax.Array) -> jax.Array:
    """sum_jk q_j q_k (d_j - d_k)^2 of differences d [B, K] with weights q [B, K] of sum 1; -> [B]."""
    return 2.0 * (jnp.sum(q * d**2, -1) - jnp.sum(q * d, -1) ** 2)
