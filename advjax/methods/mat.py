"""MAT, mutual adversarial training (Liu et al., arXiv 2112.05005, TIFS 2022), for a single norm, in two forms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from advjax import distill, losses
from advjax.errors import InputError
from advjax.fields import above, at_least, between, field, one_of
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Aux, Context, Crafted, Method, Network

CLEAN = "clean"  # the clean images, among the batches that a network sees

Logits = dict[tuple[str, Any], jax.Array]  # [B, K] by (network, batch that it saw)
# What a form makes of a batch: the losses L_k [B] of those that learn, all logits, and the networks that moved.
Lesson = tuple[dict[str, jax.Array], Logits, dict[str, Network]]


def figure(mat: MAT, context: Context, adversarial: Mapping[str, jax.Array]) -> Lesson:
    """A peer learns from the others' outputs on the clean images.

        L_k = (1-a) CE(f_k(x_k), y) + a T^2/(K-1) sum_{j!=k} KL(sg p_j^T(x) || p_k^T(x_k))

    Training forwards of each peer, each a batch of its own: x_k; then x, as a teacher, without gradient
    (running = 0.81 old + 0.09 of x_k + 0.10 of x). The second is left out where nobody learns from it: a = 0 or K = 1.
    """
    y, nets, learners = context.batch.label, dict(context.nets), mat.update_groups[context.group]
    z: Logits = {}
    for k in learners:
        z[k, k], nets[k] = nets[k].train(adversarial[k])
    values = {k: losses.cross_entropy(z[k, k], y) for k in learners}
    if mat.a > 0 and mat.peers > 1:
        for j in mat.trained:
            z[j, CLEAN], nets[j] = nets[j].train(context.batch.image)
        for k in learners:
            taught = distill.peer_distillation(z[k, k], [z[j, CLEAN] for j in mat.trained if j != k], mat.temperature)
            values[k] = (1 - mat.a) * values[k] + mat.a * taught
    return values, z, {k: nets[k] for k in learners}


def exchange(mat: MAT, context: Context, adversarial: Mapping[str, jax.Array]) -> Lesson:
    """A peer learns from the others' outputs on its own adversarial examples, and from theirs.

        L_k = (1-a) CE(f_k(x_k), y) + a T^2/(K-1) sum_{j!=k} KL(sg p_j^T(x_k) || p_k^T(x_k))
              + b/(K-1) sum_{j!=k} [(1-c) CE(f_k(x_j), y) + c T^2 KL(sg p_j^T(x_j) || p_k^T(x_j))]

    Training forwards of each peer: one, of [x_1 ... x_K] concatenated, which also gives its outputs as a teacher; of
    x_k alone if a = b = 0 or K = 1.
    """
    y, nets, learners = context.batch.label, dict(context.nets), mat.update_groups[context.group]
    z: Logits = {}
    mutual = (mat.a > 0 or mat.b > 0) and mat.peers > 1
    for k in mat.trained if mutual else learners:
        seen = mat.trained if mutual else (k,)
        logits, nets[k] = train_on(nets[k], {(k, j): adversarial[j] for j in seen})
        z |= logits
    values = {k: losses.cross_entropy(z[k, k], y) for k in learners}
    for k in learners if mutual else ():
        others = [j for j in mat.trained if j != k]
        taught = distill.peer_distillation(z[k, k], [z[j, k] for j in others], mat.temperature)
        received = [
            (1 - mat.c) * losses.cross_entropy(z[k, j], y)
            + mat.c * distill.peer_distillation(z[k, j], [z[j, j]], mat.temperature)
            for j in others
        ]
        values[k] = (1 - mat.a) * values[k] + mat.a * taught + mat.b / len(others) * sum(received)
    return values, z, {k: nets[k] for k in learners}


FORMS: Mapping[str, Callable[[MAT, Context, Mapping[str, jax.Array]], Lesson]] = {
    "figure": figure,
    "exchange": exchange,
}


@dataclasses.dataclass(frozen=True)
class MAT(Method):
    """MAT: K peers, each trained on its own adversarial examples, learn from each other's outputs.

        x_k = PGD on CE(f_k, y), peer k alone, in evaluation mode
        L_k = see `figure` and `exchange`

    The paper's body and code were not available. From its framework figure, which has two networks: each is given x and
    its own x_k; its loss is the cross-entropy of p_k(x_k) and a distillation of p_k(x_k) from the peer's p_j(x); none is
    given another's adversarial examples. OUR RECONSTRUCTION: weights, temperature, direction of the KL, that no
    gradient reaches a teacher, that it is in training mode and forwards x apart and last, more than two peers, the
    recipe; and `exchange` as a whole, our reading of the abstract, by which networks share their knowledge of
    adversarial examples through distillation.

    K = 1, or no weight on what peers teach, is adversarial training. All peers start their attacks with the same noise.
    All x_k are made before the first update, and the peers step together from the same parameters; with `sequential`,
    one after the other, later peers learning from the updated earlier ones (a forward as a teacher of others then does
    not move statistics: each peer's own forwards, the same as in the joint step, move them when it steps).

    Attributes:
        attack: the inner maximisation of every peer.
        peers: K, networks `peer0`, `peer1`, ...
        form: `"figure"` or `"exchange"`.
        a: share of the peers' outputs in what a peer learns from its own examples.
        b: weight of what it learns from the peers' examples; `exchange` alone.
        c: share of the peers' outputs in that; `exchange` alone.
        temperature: T.
        sequential: see above.
    """

    attack: TrainingAttack = TrainingAttack()
    peers: int = field(2, at_least(1), "number of networks")
    form: str = field("figure", one_of(*FORMS, kind="form"), "what peers teach each other: the paper's figure, or ours")
    a: float = field(0.5, between(0, 1), "share of the peers' outputs in what a peer learns from its own examples")
    b: float = field(1.0, at_least(0), "weight of what it learns from the peers' examples (form exchange alone)")
    c: float = field(0.5, between(0, 1), "share of the peers' outputs in that (form exchange alone)")
    temperature: float = field(1.0, above(0), "of the outputs that are distilled")
    sequential: bool = field(False, help="update one peer after the other")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_form(self)

    @property
    def trained(self) -> tuple[str, ...]:
        return tuple(f"peer{k}" for k in range(self.peers))

    @property
    def interchangeable(self) -> bool:
        return self.peers > 1

    @property
    def divisible(self) -> bool:
        return not self.sequential

    @property
    def update_groups(self) -> tuple[tuple[str, ...], ...]:
        return tuple((name,) for name in self.trained) if self.sequential else (self.trained,)

    def attack_of(self, name: str) -> TrainingAttack:
        """The attack that a peer trains on."""
        del name
        return self.attack

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        made = {n: self.attack_of(n)(context, key, context.nets[n], context.batch.label) for n in self.trained}
        return {name: x_adv for name, (x_adv, _) in made.items()}, {name: net for name, (_, net) in made.items()}

    def loss(self, context: Context, adversarial: Any, key: jax.Array) -> tuple[jax.Array, Aux]:
        values, z, nets = FORMS[self.form](self, context, adversarial)
        terms = {name: context.mean(value) for name, value in values.items()}
        total: Any = sum(terms.values())
        return total, Aux(nets, metrics=self._metrics(context, terms, z))

    def _metrics(self, context, terms, z):
        metrics = {f"{k}_loss": context.metric(value) for k, value in terms.items()}
        # Transfer: accuracy of peer k on what fools peer j, high where adversarial examples do not transfer.
        kinds: dict[str, dict[str, jax.Array]] = {"robust": {}, "clean": {}, "transfer": {}}
        for (k, batch), logits in z.items():
            if k in terms:
                kind = "robust" if batch == k else "clean" if batch == CLEAN else "transfer"
                name = f"{k}_on_{batch}" if kind == "transfer" else f"{k}_{kind}"
                kinds[kind][name] = losses.correct(logits, context.batch.label)
        for kind, correct in kinds.items():
            metrics |= {f"{name}_accuracy": context.metric(value) for name, value in correct.items()}
            if correct:
                metrics[f"{kind}_accuracy"] = context.metric(sum(correct.values()) / len(correct))
        shared = [batch for batch in (CLEAN, *self.trained) if all((k, batch) in z for k in self.trained)]
        if self.peers > 1 and shared:
            differ = [distill.disagreement([z[k, batch] for k in self.trained]) for batch in shared]
            metrics["disagreement"] = context.metric(sum(differ) / len(differ))
        return metrics


def train_on(net: Network, batches: Mapping[Any, jax.Array]) -> tuple[dict[Any, jax.Array], Network]:
    """One training forward of several batches [B, H, W, C], concatenated: logits [B, K] by batch, and the network."""
    logits, net = net.train(jnp.concatenate(list(batches.values())))
    return dict(zip(batches, jnp.split(logits, len(batches)), strict=True)), net


def check_form(method: Any) -> None:
    """For `__post_init__` of a method with the fields `form`, `b` and `c`, which the form `figure` has no use for.

    Raises:
        InputError: `b` or `c` is set and nothing would read it.
    """
    for each in dataclasses.fields(method):
        value = getattr(method, each.name)
        if method.form == "figure" and each.name in ("b", "c") and value != each.default:
            raise InputError(
                f"must be {each.default:g}, it is {value:g}: the form figure has no use for it, the form exchange has",
                each.name,
            )
