"""SGLR: Soften to Defend, Self-Guided Label Refinement (arXiv 2403.09101, CVPR 2024)."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

import jax
import numpy as np

from advjax import distill, losses
from advjax.errors import InputError
from advjax.fields import above, between, field, one_of
from advjax.methods.base import Aux, Context, PerExample, State, accuracy, reached
from advjax.methods.pgd_at import PGDAT
from advjax.methods.wrapper import Wrapper


@dataclasses.dataclass(frozen=True)
class SGLR(Wrapper):
    """The base's labels become, from an epoch on, a running memory S [N, K] of the network's own softened predictions.

        q     = w_c softmax(f(x)/T) + (1 - w_c) softmax(f(x')/T)           self-guided refinement, training mode
        S[i] <- alpha S[i] + (1 - alpha) q                                 self-distillation over time, S starts one-hot
        t     = r S[i] + (1 - r) onehot(y)
        min base's loss with t in place of y                               no gradient through S

    The base is PGD-AT, CE(f(x'), t); TRADES, CE(f(x), t) + beta KL(p(x) || p(x')); or MART, where t stands in the
    cross-entropy of its BCE, while the wrong class k* and the weight 1 - p_y(x) keep y. The attack is the base's, always
    against the true label. Before epoch es t is y and S rests.

    Training forwards: the base's, then from es on one more without gradient, which PGD-AT needs for f(x) and which the
    code of TRADES+SGLR makes of x' a second time.

    Source: the authors' code (w_c 0.2, alpha 0.9, r 1, T 1; es 90 of 200 epochs). Our reconstruction: the general form
    in w_c, alpha, r and T, of which w_c 0, alpha 0, 0 < r < 1 is the one equation known of the paper; es as a fraction;
    es of TRADES and MART; the order of MART's forwards.

    Attributes:
        base: the method whose labels are refined.
        clean_weight: w_c, share of the clean prediction in q.
        alpha: share of the old memory.
        r: share of the memory in the label.
        temperature: T.
        es: S is used from epoch round(es * epochs) on, counted from 1.
        one_more: the images of the further forward: `"clean"` (PGD-AT), `"adv"` (TRADES) or `"none"` (MART).
    """

    base: PerExample = PGDAT(clean_statistics=False)
    clean_weight: float = field(0.2, between(0, 1), "w_c, share of the clean prediction in the refined label")
    alpha: float = field(0.9, between(0, 1), "share of the old memory")
    r: float = field(1.0, between(0, 1), "share of the memory in the label")
    temperature: float = field(1.0, above(0), "T of the predictions that are remembered")
    es: float = field(0.45, between(0, 1), "fraction of the run at which the memory comes into use")
    one_more: str = field("clean", one_of("clean", "adv", "none"), "images of the forward that refinement adds")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.base, PerExample):
            raise InputError(f"must be a method of one network and a loss per example, not {self.base}", "base")

    @property
    def soft_labels(self) -> bool:
        return False

    def own_state(self, labels: np.ndarray, num_classes: int) -> State:
        return State(per_example=distill.label_memory(labels, num_classes))

    def own_phase(self, epoch: int, epochs: int) -> Hashable:
        return "refine" if reached(self.es, epoch, epochs) else "plain"

    def loss(self, context: Context, adversarial: Any, key: jax.Array) -> tuple[jax.Array, Aux]:
        (phase, state), whole, context = self.own(context), context, self.inner(context)
        if phase == "plain":
            return super().loss(whole, adversarial, key)
        y, memory = context.batch.label, state.per_example
        logits, net = self.base.forwards(context, adversarial)
        if self.one_more == "clean":
            clean, net = net.train(context.batch.image)
            logits = {**logits, "clean": clean}
        elif self.one_more == "adv":
            _, net = net.train(self.base.images(adversarial))
        refined = distill.refine_labels(logits["clean"], logits["robust"], self.clean_weight, self.temperature)
        memory = distill.remember(memory, refined, self.alpha)
        values, metrics = self.base.example_losses(context, logits, distill.mix_with_labels(memory, y, self.r))
        metrics |= {
            "memory_entropy": context.metric(distill.label_entropy(memory)),
            "memory_agreement": context.metric(losses.correct(memory, y)),
            **accuracy(context, **logits),
        }
        state = self.outer(whole, self.base.new_state(context, adversarial, logits), State(per_example=memory))
        return context.mean(values), Aux({"model": net}, state, metrics)

    def proxy_loss(self, context: Context, adversarial: Any, key: jax.Array) -> jax.Array:
        """The loss itself: cross-entropy against S in both the ascent and the descent."""
        return self.loss(context, adversarial, key)[0]
