"""MAT over a union of norms (Liu et al., arXiv 2112.05005, TIFS 2022): specialists and a generalist, or peers alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from advjax import distill, losses
from advjax.errors import InputError
from advjax.fields import above, at_least, between, field, one_of
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Aux, Context, Crafted, Method
from advjax.methods.mat import CLEAN, MAT, Lesson, Logits, check_form, train_on
from advjax.methods.norms import ORDER, Radius, check_radii, per_norm

L2, L1 = Radius("0.5", "0.125"), Radius("12", "2")
GENERALIST = "generalist"


def specialist(norm: str) -> str:
    """Name of the specialist of a norm."""
    return f"specialist_{norm}"


SPECIALISTS = tuple(specialist(norm) for norm in ORDER)
# (network attacked, norm) of every adversarial batch.
PAIRS = tuple((GENERALIST, p) for p in ORDER) + tuple((specialist(p), p) for p in ORDER)


def figure(union: MATUnion, context: Context, examples: Mapping[tuple[str, str], jax.Array]) -> Lesson:
    """Specialists learn from the generalist's output on the clean images, and the generalist from the mean of theirs.

        L_S_p = CE(S_p(x_p^S), y) + a_S T^2 KL(sg p_G^T(x) || p_S_p^T(x_p^S))
        L_G   = 1/3 sum_p {(1-a) CE(G(x_p^G), y) + a T^2 KL(sg 1/3 sum_q p_S_q^T(x) || p_G^T(x_p^G))}

    Training forwards: S_p of x_p^S, G of [x_1^G, x_2^G, x_inf^G] concatenated; then of x alone, as a teacher and without
    gradient, each S_p if a > 0 and G if a_S > 0.
    """
    y, t, nets = context.batch.label, union.temperature, dict(context.nets)
    z: Logits = {}
    for name in union.trained:
        logits, nets[name] = train_on(nets[name], {(name, pair): examples[pair] for pair in PAIRS if pair[0] == name})
        z |= logits
    for name in SPECIALISTS * (union.a > 0) + (GENERALIST,) * (union.a_specialist > 0):
        z[name, CLEAN], nets[name] = nets[name].train(context.batch.image)

    values, general = {}, jnp.zeros(len(y))
    for p, s in zip(ORDER, SPECIALISTS, strict=True):
        by_s, by_g = z[s, (s, p)], z[GENERALIST, (GENERALIST, p)]
        values[s] = losses.cross_entropy(by_s, y)
        if union.a_specialist:
            values[s] += union.a_specialist * distill.peer_distillation(by_s, [z[GENERALIST, CLEAN]], t)
        own = losses.cross_entropy(by_g, y)
        if union.a:
            own = (1 - union.a) * own + union.a * mean_distillation(by_g, [z[q, CLEAN] for q in SPECIALISTS], t)
        general += own / len(ORDER)
    return {GENERALIST: general, **values}, z, {name: nets[name] for name in union.trained}


def exchange(union: MATUnion, context: Context, examples: Mapping[tuple[str, str], jax.Array]) -> Lesson:
    """Each learns from the other's outputs on its own adversarial examples, the generalist from the specialists', too.

        L_S_p = CE(S_p(x_p^S), y) + a_S T^2 KL(sg p_G^T(x_p^S) || p_S_p^T(x_p^S))
        L_G   = 1/3 sum_p {(1-a) CE(G(x_p^G), y) + a T^2 KL(sg p_S_p^T(x_p^G) || p_G^T(x_p^G))
                           + b [(1-c) CE(G(x_p^S), y) + c T^2 KL(sg p_S_p^T(x_p^S) || p_G^T(x_p^S))]}

    Training forwards: one per network, of the batches that it or a network that learns from it needs, concatenated:
    S_p of [x_p^S, x_p^G] (the second if a > 0), G of [x_1^G, x_2^G, x_inf^G, x_1^S, x_2^S, x_inf^S] (the latter three
    if b > 0 or a_S > 0).
    """
    y, t, nets = context.batch.label, union.temperature, dict(context.nets)
    z: Logits = {}
    needed = {GENERALIST: PAIRS if union.b > 0 or union.a_specialist > 0 else PAIRS[: len(ORDER)]}
    for p, s in zip(ORDER, SPECIALISTS, strict=True):
        needed[s] = ((s, p), (GENERALIST, p))[: 2 if union.a > 0 else 1]
    for name, pairs in needed.items():
        logits, nets[name] = train_on(nets[name], {(name, pair): examples[pair] for pair in pairs})
        z |= logits

    def learn(share, teacher, pair):
        own = losses.cross_entropy(z[GENERALIST, pair], y)
        if not share:
            return own
        return (1 - share) * own + share * distill.peer_distillation(z[GENERALIST, pair], [z[teacher, pair]], t)

    values, general = {}, jnp.zeros(len(y))
    for p, s in zip(ORDER, SPECIALISTS, strict=True):
        on_g, on_s = (GENERALIST, p), (s, p)
        values[s] = losses.cross_entropy(z[s, on_s], y)
        if union.a_specialist:
            values[s] += union.a_specialist * distill.peer_distillation(z[s, on_s], [z[GENERALIST, on_s]], t)
        general += learn(union.a, s, on_g) / len(ORDER)
        if union.b:
            general += union.b * learn(union.c, s, on_s) / len(ORDER)
    return {GENERALIST: general, **values}, z, {name: nets[name] for name in union.trained}


def mean_distillation(logits: jax.Array, teachers: Sequence[jax.Array], temperature: float) -> jax.Array:
    """T^2 KL(sg mean_j p_j^T || p^T) of logits [B, K]: what several say together, taught to one; -> [B]."""
    total: Any = sum(jax.nn.softmax(z.astype(jnp.float32) / temperature) for z in teachers)
    logits = logits.astype(jnp.float32) / temperature
    return temperature**2 * losses.kl_probabilities(jax.lax.stop_gradient(total / len(teachers)), logits)


FORMS: Mapping[str, Callable[[MATUnion, Context, Mapping[tuple[str, str], jax.Array]], Lesson]] = {
    "figure": figure,
    "exchange": exchange,
}


@dataclasses.dataclass(frozen=True)
class MATUnion(Method):
    """MAT over a union of norms: a specialist S_p per norm p in {1, 2, inf}, and a generalist G that learns from them.

        x_p^S = PGD_p on CE(S_p, y),    x_p^G = PGD_p on CE(G, y),    each in evaluation mode
        L_S_p, L_G: see `figure` and `exchange`

    The paper's body and code were not available. From its abstract: specialists, a generalist that learns from them, the
    three norms. OUR RECONSTRUCTION: all else. `figure` carries over, by analogy, what the paper's framework figure
    shows for one norm (`MAT`): a network learns, on its own adversarial examples, from others' outputs on the clean
    images, and no examples are exchanged.

    All networks step together from the same parameters. The generalist is what is evaluated.

    Attributes:
        attack: the l_inf attack; start, steps and statistics of all.
        l2: radius and step of l_2.
        l1: radius and step of l_1.
        form: `"figure"` or `"exchange"`.
        a: share of the specialists' outputs in what the generalist learns from its own examples.
        b: weight of what it learns from the specialists' examples; `exchange` alone.
        c: share of the specialists' outputs in that; `exchange` alone.
        a_specialist: a_S; 0: the specialists learn nothing from the generalist.
        temperature: T.
    """

    attack: TrainingAttack = TrainingAttack()
    l2: Radius = L2
    l1: Radius = L1
    form: str = field("figure", one_of(*FORMS, kind="form"), "what is taught: as the paper's figure suggests, or ours")
    a: float = field(0.5, between(0, 1), "share of the specialists' outputs in what the generalist learns by itself")
    b: float = field(1.0, at_least(0), "weight of what it learns from the specialists' examples (form exchange alone)")
    c: float = field(0.5, between(0, 1), "share of the specialists' outputs in that (form exchange alone)")
    a_specialist: float = field(0.0, at_least(0), "weight of the generalist's outputs in what a specialist learns")
    temperature: float = field(1.0, above(0), "of the outputs that are distilled")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_form(self)
        check_radii(self)

    @property
    def trained(self) -> tuple[str, ...]:
        return (GENERALIST, *SPECIALISTS)

    @property
    def divisible(self) -> bool:
        return True

    @property
    def evaluated(self) -> tuple[str, ...]:
        return (GENERALIST,)

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        nets, adversarial = dict(context.nets), {}
        for index, (norm, attack) in enumerate(per_norm(self.attack, self.l2, self.l1).items()):
            for name in (GENERALIST, specialist(norm)):
                own_key = jax.random.fold_in(key, index)
                x_adv, nets[name] = attack(context, own_key, nets[name], context.batch.label)
                adversarial[name, norm] = x_adv
        return [adversarial[pair] for pair in PAIRS], {name: nets[name] for name in self.trained}

    def loss(self, context: Context, adversarial: Any, key: jax.Array) -> tuple[jax.Array, Aux]:
        values, z, nets = FORMS[self.form](self, context, dict(zip(PAIRS, adversarial, strict=True)))
        means = {name: context.mean(value) for name, value in values.items()}
        total: Any = sum(means.values())
        return total, Aux(nets, metrics=self._metrics(context, means, z))

    def _metrics(self, context, means, z):
        y, metrics = context.batch.label, {f"{name}_loss": context.metric(value) for name, value in means.items()}
        own = [losses.correct(z[GENERALIST, (GENERALIST, p)], y) for p in ORDER]
        metrics["robust_accuracy"] = context.metric(jnp.min(jnp.stack(own), 0))  # of the three attacks' union
        for p, s, correct in zip(ORDER, SPECIALISTS, own, strict=True):
            metrics[f"generalist_{p}_accuracy"] = context.metric(correct)
            metrics[f"{s}_accuracy"] = context.metric(losses.correct(z[s, (s, p)], y))
            for name, pair in ((GENERALIST, (s, p)), (s, (GENERALIST, p))):
                if (name, pair) in z:
                    metrics[f"{name}_on_{pair[0]}_accuracy"] = context.metric(losses.correct(z[name, pair], y))
            if (s, (GENERALIST, p)) in z:
                differ = distill.disagreement([z[GENERALIST, (GENERALIST, p)], z[s, (GENERALIST, p)]])
                metrics[f"{p}_disagreement"] = context.metric(differ)
        clean = {name: z[name, CLEAN] for name in self.trained if (name, CLEAN) in z}
        metrics |= {
            f"{name}_clean_accuracy": context.metric(losses.correct(logits, y)) for name, logits in clean.items()
        }
        if self.form == "figure" and self.a > 0:
            metrics["disagreement"] = context.metric(distill.disagreement([clean[s] for s in SPECIALISTS]))
        return metrics


@dataclasses.dataclass(frozen=True)
class MATMutualUnion(MAT):
    """MAT with three peers, one per norm: the purely mutual variant of MAT over a union of norms, `MAT`'s two forms.

    What is the paper's in them is said there; that each peer has a norm of its own is our reading of the abstract. Every
    peer is evaluated.

    Attributes:
        l2: radius and step of l_2, for `peer_l2`.
        l1: radius and step of l_1, for `peer_l1`.
    """

    peers: int = field(3, at_least(1), "number of networks, one per norm")
    l2: Radius = L2
    l1: Radius = L1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.peers != len(ORDER):
            raise InputError(f"must be {len(ORDER)}, one per norm, it is {self.peers}", "peers")
        check_radii(self)

    @property
    def trained(self) -> tuple[str, ...]:
        return tuple(f"peer_{norm}" for norm in ORDER)

    def attack_of(self, name: str) -> TrainingAttack:
        return per_norm(self.attack, self.l2, self.l1)[name.removeprefix("peer_")]
