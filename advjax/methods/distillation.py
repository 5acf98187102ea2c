"""What the methods have in common in which one student learns from frozen teachers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from advjax.errors import InputError
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Aux, Context, Crafted, ExampleLosses, Forwards, Method, Metric, Network, accuracy


@dataclasses.dataclass(frozen=True)
class Distillation(Method):
    """A method of one trained network, `student`, whose loss is a mean of per-example losses of its logits.

    Such a method says which training forwards the student makes and what an example loses by them; then a wrapper may
    add a term of its own (IGDM). Teachers are frozen, in evaluation mode, and get no gradient in the loss.

    Attributes:
        attack: the inner maximisation; here CE(S(x'), y).
    """

    attack: TrainingAttack = TrainingAttack(start="normal")

    @property
    def trained(self) -> tuple[str, ...]:
        return ("student",)

    @property
    def divisible(self) -> bool:
        return True

    @property
    def frozen(self) -> tuple[str, ...]:
        return ("robust_teacher",)

    def perturb(self, context: Context, key: jax.Array) -> Crafted:
        x_adv, student = self.attack(context, key, context.nets["student"], context.batch.label)
        return x_adv, {"student": student}

    def forwards(self, context: Context, x_adv: jax.Array) -> Forwards:
        """The student's training forwards in their order: logits [B, K] by name, `robust` always; and the student."""
        raise NotImplementedError

    def example_losses(self, context: Context, x_adv: jax.Array, logits: Mapping[str, jax.Array]) -> ExampleLosses:
        """Every example's loss [B] and the method's own metrics, from x' and from what `forwards` gave."""
        raise NotImplementedError

    def loss(self, context: Context, adversarial: Any, key: jax.Array) -> tuple[jax.Array, Aux]:
        logits, student = self.forwards(context, adversarial)
        return mean_loss(context, logits, student, *self.example_losses(context, adversarial, logits))

    def adaptive_loss(self, context: Context, network: str, x_adv: jax.Array) -> jax.Array | None:
        return self.example_losses(context, x_adv, self.forwards(context, x_adv)[0])[0]


def mean_loss(
    context: Context,
    logits: Mapping[str, jax.Array],
    student: Network,
    values: jax.Array,
    metrics: Mapping[str, Metric],
) -> tuple[jax.Array, Aux]:
    """What a loss hands back: the mean of per-example losses [B], the student, metrics with the accuracies."""
    return context.mean(values), Aux({"student": student}, metrics={**metrics, **accuracy(context, **logits)})


def running_statistics_only(attack: TrainingAttack) -> None:
    """Refuses an attack on batch statistics, for methods whose objective is more than the student's logits.

    Raises:
        InputError: the attack is one.
    """
    if attack.statistics != "running":
        raise InputError("attack.statistics must be running: student and teacher are attacked in evaluation mode")


def shares_of_one(method: Method, first: str, second: str) -> None:
    """Refuses two weights of a method, `first` and `second`, that leave the third term less than none.

    Raises:
        InputError: their sum is above 1.
    """
    total = getattr(method, first) + getattr(method, second)
    if total > 1:
        raise InputError(f"plus {second} must be at most 1, it is {total:g}", first)
