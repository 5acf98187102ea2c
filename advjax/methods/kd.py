"""KD: knowledge distillation of KD+SWA, "Robust Overfitting may be mitigated by properly learned smoothening"
(Chen et al., ICLR 2021)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax

from advjax import losses
from advjax.fields import above, between, field
from advjax.methods.attack import TrainingAttack
from advjax.methods.base import Context, ExampleLosses, Forwards
from advjax.methods.distillation import Distillation, shares_of_one


@dataclasses.dataclass(frozen=True)
class KD(Distillation):
    """PGD-AT whose labels a clean and a robust teacher of the student's own architecture smooth.

        x' = argmax CE(S(x'), y)
        KD_k = -T^2 sum softmax(T_k(x')/T) log softmax(S(x')/T)
        min (1 - w_clean - w_robust) CE(S(x'), y) + w_clean KD_clean + w_robust KD_robust

    Batch means, all on x'. Training forwards: adversarial. The authors average the weights as well (SWA), which is a
    wrapper of its own.

    Source: the authors' code, whose attack moves the statistics (`statistics="batch"` in the config of their recipe).

    Attributes:
        attack: the inner maximisation, on the student alone.
        clean_weight: w_clean.
        robust_weight: w_robust.
        temperature: T, of teachers and student.
    """

    attack: TrainingAttack = TrainingAttack()
    clean_weight: float = field(0.1, between(0, 1), "weight of the clean teacher")
    robust_weight: float = field(0.6, between(0, 1), "weight of the robust teacher; the rest is the labels'")
    temperature: float = field(2.0, above(0), "of teachers and student")

    def __post_init__(self) -> None:
        super().__post_init__()
        shares_of_one(self, "clean_weight", "robust_weight")

    @property
    def frozen(self) -> tuple[str, ...]:
        return ("clean_teacher", "robust_teacher")

    def forwards(self, context: Context, x_adv: jax.Array) -> Forwards:
        robust, student = context.nets["student"].train(x_adv)
        return {"robust": robust}, student

    def example_losses(self, context: Context, x_adv: jax.Array, logits: Mapping[str, jax.Array]) -> ExampleLosses:
        def distilled(name):
            soft = jax.nn.softmax(context.nets[name].logits_fn(x_adv) / self.temperature)
            return self.temperature**2 * losses.cross_entropy(logits["robust"] / self.temperature, soft)

        terms = {
            "label_loss": losses.cross_entropy(logits["robust"], context.batch.label),
            "clean_distillation": distilled("clean_teacher"),
            "robust_distillation": distilled("robust_teacher"),
        }
        shares = (1 - self.clean_weight - self.robust_weight, self.clean_weight, self.robust_weight)
        values = sum(share * term for share, term in zip(shares, terms.values(), strict=True))
        return values, {name: context.metric(term) for name, term in terms.items()}
