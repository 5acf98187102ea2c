"""MAT, mutual adversarial training (Liu et al., arXiv 2112.05005, TIFS 2022), for a single norm."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from advjax import distill, losses
from advjax.fields import above, at_least, between, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Aux, Method


@dataclasses.dataclass(frozen=True)
class MAT(Method):
    """MAT: K peers learn from each other's adversarial examples and from each other's outputs on their own.

        x_k = PGD on CE(f_k, y), peer k alone, in evaluation mode
        L_k = (1-a) CE(f_k(x_k), y) + a T^2/(K-1) sum_{j!=k} KL(sg p_j^T(x_k) || p_k^T(x_k))
              + b/(K-1) sum_{j!=k} [(1-c) CE(f_k(x_j), y) + c T^2 KL(sg p_j^T(x_j) || p_k^T(x_j))]

    The equations, coefficients and recipe are OUR RECONSTRUCTION: only the paper's abstract was available, which says
    that networks trained together share their adversarial examples and teach each other by distillation.

    Training forwards: each peer one, of [x_1 ... x_K] concatenated, which also gives its outputs as a teacher; of x_k
    alone if a = b = 0 or K = 1, so that MAT is then K independent adversarial trainings. All peers start their attacks
    with the same noise. All x_k are made before the first update, and the peers step together from the same parameters;
    with `sequential`, one after the other, later peers learning from the updated earlier ones (a forward as a teacher
    then does not move statistics: each peer's own moves them once a step).

    Attributes:
        attack: the inner maximisation of every peer.
        peers: K, networks `peer0`, `peer1`, ...
        a: share of the peers' outputs in what a peer learns from its own examples.
        b: weight of what it learns from the peers' examples.
        c: share of the peers' outputs in that.
        temperature: T.
        sequential: see above.
    """

    attack: TrainingAttack = TrainingAttack()
    peers: int = field(2, at_least(1), "number of networks")
    a: float = field(0.5, between(0, 1), "share of the peers' outputs in what a peer learns from its own examples")
    b: float = field(1.0, at_least(0), "weight of what it learns from the peers' examples")
    c: float = field(0.5, between(0, 1), "share of the peers' outputs in that")
    temperature: float = field(1.0, above(0), "of the outputs that are distilled")
    sequential: bool = field(False, help="update one peer after the other")

    @property
    def trained(self):
        return tuple(f"peer{k}" for k in range(self.peers))

    @property
    def interchangeable(self):
        return len(self.trained) > 1

    @property
    def update_groups(self):
        return tuple((name,) for name in self.trained) if self.sequential else (self.trained,)

    @property
    def mutual(self) -> bool:
        """Whether any peer learns from another."""
        return len(self.trained) > 1 and (self.a > 0 or self.b > 0)

    def attack_of(self, name: str) -> TrainingAttack:
        """The attack that a peer trains on."""
        del name
        return self.attack

    def perturb(self, context, key):
        made = {n: self.attack_of(n)(context, key, context.nets[n], context.batch.label) for n in self.trained}
        return {name: x_adv for name, (x_adv, _) in made.items()}, {name: net for name, (_, net) in made.items()}

    def loss(self, context, adversarial, key):
        learners = self.update_groups[context.group]
        z, nets = {}, {}  # z[k][j]: logits of peer k on x_j
        for name in self.trained if self.mutual else learners:
            seen = self.trained if self.mutual else (name,)
            logits, net = context.nets[name].train(jnp.concatenate([adversarial[other] for other in seen]))
            z[name] = dict(zip(seen, jnp.split(logits, len(seen)), strict=True))
            if name in learners:
                nets[name] = net
        terms = {name: context.mean(self._terms(name, z, context.batch.label)) for name in learners}
        return sum(terms.values()), Aux(nets, metrics=self._metrics(context, terms, z))

    def _terms(self, k, z, y):
        """L_k per example, [B]."""
        own, others = losses.cross_entropy(z[k][k], y), [j for j in self.trained if j != k]
        if not self.mutual:
            return own
        taught = distill.peer_distillation(z[k][k], [z[j][k] for j in others], self.temperature)
        received = [
            (1 - self.c) * losses.cross_entropy(z[k][j], y)
            + self.c * distill.peer_distillation(z[k][j], [z[j][j]], self.temperature)
            for j in others
        ]
        return (1 - self.a) * own + self.a * taught + self.b / len(others) * sum(received)

    def _metrics(self, context, terms, z):
        y, learners = context.batch.label, list(terms)
        own = {k: losses.correct(z[k][k], y) for k in learners}
        metrics = {"robust_accuracy": context.metric(sum(own.values()) / len(own))}
        metrics |= {f"{k}_loss": context.metric(terms[k]) for k in learners}
        metrics |= {f"{k}_robust_accuracy": context.metric(own[k]) for k in learners}
        if self.mutual:
            # Accuracy of peer k on what fools peer j: high where adversarial examples do not transfer.
            cross = {(k, j): losses.correct(z[k][j], y) for k in learners for j in self.trained if j != k}
            metrics |= {f"{k}_on_{j}_accuracy": context.metric(value) for (k, j), value in cross.items()}
            metrics["transfer_accuracy"] = context.metric(sum(cross.values()) / len(cross))
            differ = [distill.disagreement([z[k][j] for k in self.trained]) for j in self.trained]
            metrics["disagreement"] = context.metric(sum(differ) / len(differ))
        return metrics
