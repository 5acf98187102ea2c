"""MAT over a union of norms (Liu et al., arXiv 2112.05005, TIFS 2022): specialists and a generalist, or peers alone."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from advjax import distill, losses
from advjax.errors import InputError
from advjax.fields import above, at_least, between, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Aux, Method
from advjax.methods.mat import MAT
from advjax.methods.norms import ORDER, Radius, check_radii, per_norm

L2, L1 = Radius("0.5", "0.125"), Radius("12", "2")


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
    a: float = field(0.5, between(0, 1), "share of the specialist's outputs in what the generalist learns by itself")
    b: float = field(1.0, at_least(0), "weight of what it learns from the specialists' examples")
    c: float = field(0.5, between(0, 1), "share of the specialists' outputs in that")
    a_specialist: float = field(0.0, at_least(0), "weight of the generalist's outputs in what a specialist learns")
    temperature: float = field(1.0, above(0), "of the outputs that are distilled")

    def __post_init__(self):
        super().__post_init__()
        check_radii(self)

    @property
    def trained(self):
        return ("generalist", *(specialist(norm) for norm in ORDER))

    @property
    def evaluated(self):
        return ("generalist",)

    def perturb(self, context, key):
        nets, adversarial = dict(context.nets), {}
        for index, (norm, attack) in enumerate(per_norm(self.attack, self.l2, self.l1).items()):
            for name in ("generalist", specialist(norm)):
                own_key = jax.random.fold_in(key, index)
                x_adv, nets[name] = attack(context, own_key, nets[name], context.batch.label)
                adversarial[name, norm] = x_adv
        return [adversarial[pair] for pair in self._pairs()], {name: nets[name] for name in self.trained}

    def _pairs(self):
        """(network attacked, norm) of each adversarial batch."""
        return [("generalist", p) for p in ORDER] + [(specialist(p), p) for p in ORDER]

    def loss(self, context, adversarial, key):
        examples, y, t = dict(zip(self._pairs(), adversarial, strict=True)), context.batch.label, self.temperature
        needed = {"generalist": self._pairs() if self.b > 0 or self.a_specialist > 0 else self._pairs()[: len(ORDER)]}
        for p in ORDER:
            needed[specialist(p)] = [(specialist(p), p), ("generalist", p)][: 2 if self.a > 0 else 1]
        z, nets = {}, {}  # z[name][attacked, norm]: logits
        for name, pairs in needed.items():
            logits, net = context.nets[name].train(jnp.concatenate([examples[pair] for pair in pairs]))
            z[name] = dict(zip(pairs, jnp.split(logits, len(pairs)), strict=True))
            nets[name] = net

        def learn(share, learner, teacher, pair):
            own = losses.cross_entropy(z[learner][pair], y)
            if not share:
                return own
            return (1 - share) * own + share * distill.peer_distillation(z[learner][pair], [z[teacher][pair]], t)

        terms, general = {}, jnp.zeros(len(y))
        for p in ORDER:
            s, on_g, on_s = specialist(p), ("generalist", p), (specialist(p), p)
            terms[s] = losses.cross_entropy(z[s][on_s], y)
            if self.a_specialist:
                terms[s] += self.a_specialist * distill.peer_distillation(z[s][on_s], [z["generalist"][on_s]], t)
            general += learn(self.a, "generalist", s, on_g) / len(ORDER)
            if self.b:
                general += self.b * learn(self.c, "generalist", s, on_s) / len(ORDER)
        terms["generalist"] = general
        means = {name: context.mean(term) for name, term in terms.items()}
        return sum(means.values()), Aux(nets, metrics=self._metrics(context, means, z))

    def _metrics(self, context, means, z):
        y, metrics = context.batch.label, {f"{name}_loss": context.metric(value) for name, value in means.items()}
        own = [losses.correct(z["generalist"]["generalist", p], y) for p in ORDER]
        metrics["robust_accuracy"] = context.metric(jnp.min(jnp.stack(own), 0))  # of the three attacks' union
        for p, correct in zip(ORDER, own, strict=True):
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

    peers: int = field(3, at_least(1), "number of networks, one per norm")
    l2: Radius = L2
    l1: Radius = L1

    def __post_init__(self):
        super().__post_init__()
        if self.peers != len(ORDER):
            raise InputError(f"must be {len(ORDER)}, one per norm, it is {self.peers}", "peers")
        check_radii(self)

    @property
    def trained(self):
        return tuple(f"peer_{norm}" for norm in ORDER)

    def attack_of(self, name):
        return per_norm(self.attack, self.l2, self.l1)[name.removeprefix("peer_")]
