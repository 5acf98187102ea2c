"""MAT over a union of norms (Liu et al., arXiv 2112.05005, TIFS 2022): specialists and a generalist, or peers alone."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from advjax import distill, losses
from advjax.errors import InputError
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Aux, Method
from advjax.methods.mat import MAT, check_coefficients
from advjax.methods.norms import NORMS, Radius, per_norm, settle_radii

L2, L1 = Radius(0.5, 0.125), Radius(12.0, 2.0)


def specialist(norm: str) -> str:
    """Name of the specialist of a norm."""
    return f"specialist_{norm}"


@dataclasses.dataclass(frozen=True)
class MATUnion(Method):
    """MAT over a union of norms: a specialist S_p per norm p in {1, 2, inf}, and a generalist G that learns from them.

        x_p^S = PGD_p on CE(S_p, y),    x_p^G = PGD_p on CE(G, y),    each in evaluation mode
        L_S_p = CE(S_p(x_p^S), y) + a_S T^2 KL(sg p_G^T(x_p^S) || p_S_p^T(x_p^S))
        L_G   = 1/3 sum_p { (1-a) CE(G(x_p^G), y) + a T^2 KL(sg p_S_p^T(x_p^G) || p_G^T(x_p^G))
                            + b [(1-c) CE(G(x_p^S), y) + c T^2 KL(sg p_S_p^T(x_p^S) || p_G^T(x_p^S))] }

    The equations, coefficients and recipe are OUR RECONSTRUCTION: only the paper's abstract was available, which names
    specialists, a generalist that learns from them, and the three norms.

    Training forwards: one per network, of the batches that it or a network that learns from it needs, concatenated:
    S_p of [x_p^S, x_p^G] (the second if a > 0), G of [x_1^G, x_2^G, x_inf^G, x_1^S, x_2^S, x_inf^S] (the latter three
    if b > 0 or a_S > 0). All networks step together from the same parameters. The generalist is what is evaluated.

    Attributes:
        attack: the l_inf attack; start, steps and statistics of all.
        l2: radius and step of l_2.
        l1: radius and step of l_1.
        a: share of the specialist's outputs in what the generalist learns from its own examples.
        b: weight of what it learns from the specialists' examples.
        c: share of the specialists' outputs in that.
        a_specialist: a_S; 0: the specialists learn nothing from the generalist.
        temperature: T.
    """

    attack: TrainingAttack = TrainingAttack()
    l2: Radius = L2
    l1: Radius = L1
    a: float = 0.5
    b: float = 1.0
    c: float = 0.5
    a_specialist: float = 0.0
    temperature: float = 1.0

    def __post_init__(self):
        settle_radii(self)
        check_coefficients(self, self.temperature, shares=("a", "c"), weights=("b", "a_specialist"))

    @property
    def trained(self):
        return ("generalist", *(specialist(norm) for norm in NORMS))

    @property
    def evaluated(self):
        return ("generalist",)

    def perturb(self, context, key):
        nets, crafted = dict(context.nets), {}
        for index, (norm, attack) in enumerate(per_norm(self.attack, self.l2, self.l1).items()):
            for name in ("generalist", specialist(norm)):
                own_key = jax.random.fold_in(key, index)
                x_adv, nets[name] = attack(context, own_key, nets[name], context.batch.label)
                crafted[name, norm] = x_adv
        return [crafted[pair] for pair in self._pairs()], {name: nets[name].stats for name in self.trained}

    def _pairs(self):
        """(network attacked, norm) of each adversarial batch."""
        return [("generalist", p) for p in NORMS] + [(specialist(p), p) for p in NORMS]

    def loss(self, context, crafted, key):
        examples, y, t = dict(zip(self._pairs(), crafted[0], strict=True)), context.batch.label, self.temperature
        needed = {"generalist": self._pairs() if self.b > 0 or self.a_specialist > 0 else self._pairs()[: len(NORMS)]}
        for p in NORMS:
            needed[specialist(p)] = [(specialist(p), p), ("generalist", p)][: 2 if self.a > 0 else 1]
        z, stats = {}, {}  # z[name][attacked, norm]: logits
        for name, pairs in needed.items():
            net = context.nets[name].with_stats(crafted[1][name])
            logits, net = net.train(jnp.concatenate([examples[pair] for pair in pairs]))
            z[name] = dict(zip(pairs, jnp.split(logits, len(pairs)), strict=True))
            stats[name] = net.stats

        def learn(share, learner, teacher, pair):
            own = losses.cross_entropy(z[learner][pair], y)
            if not share:
                return own
            return (1 - share) * own + share * distill.peer_distillation(z[learner][pair], [z[teacher][pair]], t)

        terms, general = {}, jnp.zeros(len(y))
        for p in NORMS:
            s, on_g, on_s = specialist(p), ("generalist", p), (specialist(p), p)
            terms[s] = losses.cross_entropy(z[s][on_s], y)
            if self.a_specialist:
                terms[s] += self.a_specialist * distill.peer_distillation(z[s][on_s], [z["generalist"][on_s]], t)
            general += learn(self.a, "generalist", s, on_g) / len(NORMS)
            if self.b:
                general += self.b * learn(self.c, "generalist", s, on_s) / len(NORMS)
        terms["generalist"] = general
        means = {name: context.mean(term) for name, term in terms.items()}
        return sum(means.values()), Aux(stats, metrics=self._metrics(context, means, z))

    def _metrics(self, context, means, z):
        y, metrics = context.batch.label, {f"{name}_loss": context.metric(value) for name, value in means.items()}
        own = [losses.correct(z["generalist"]["generalist", p], y) for p in NORMS]
        metrics["robust_accuracy"] = context.metric(jnp.min(jnp.stack(own), 0))  # of the three attacks' union
        for p, correct in zip(NORMS, own, strict=True):
            s = specialist(p)
            metrics[f"generalist_{p}_accuracy"] = context.metric(correct)
            metrics[f"{s}_accuracy"] = context.metric(losses.correct(z[s][s, p], y))
            for name, pair in (("generalist", (s, p)), (s, ("generalist", p))):
                if pair in z[name]:
                    metrics[f"{name}_on_{pair[0]}_accuracy"] = context.metric(losses.correct(z[name][pair], y))
            if ("generalist", p) in z[s]:
                differ = distill.disagreement([z["generalist"]["generalist", p], z[s]["generalist", p]])
                metrics[f"{p}_disagreement"] = context.metric(differ)
        return metrics


@dataclasses.dataclass(frozen=True)
class MATMutualUnion(MAT):
    """MAT with three peers, one per norm: the purely mutual variant of MAT over a union of norms, `MAT`'s equations.

    Our reconstruction, as `MAT` is. Every peer is evaluated.

    Attributes:
        l2: radius and step of l_2, for `peer_l2`.
        l1: radius and step of l_1, for `peer_l1`.
    """

    peers: int = 3
    l2: Radius = L2
    l1: Radius = L1

    def __post_init__(self):
        super().__post_init__()
        if self.peers != len(NORMS):
            raise InputError(f"method.peers must be {len(NORMS)}, one per norm, it is {self.peers}")
        settle_radii(self)

    @property
    def trained(self):
        return tuple(f"peer_{norm}" for norm in NORMS)

    def attack_of(self, name):
        return per_norm(self.attack, self.l2, self.l1)[name.removeprefix("peer_")]
