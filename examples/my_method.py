"""A method of one's own, outside the package: ARD (Goldblum et al. 2020), a robust teacher's soft labels on clean images."""

import dataclasses

import jax

from advjax import losses
from advjax.fields import above, between, field
from advjax.methods import Aux, Method, TrainingAttack, accuracy


@dataclasses.dataclass(frozen=True)
class ARD(Method):
    """min a T^2 KL(p_T(x)^T || p_S(x')^T) + (1 - a) CE(p_S(x), y), x' maximising CE(p_S(x'), y)."""

    attack: TrainingAttack = TrainingAttack()
    a: float = field(1.0, between(0, 1), "share of the teacher's labels")
    temperature: float = field(30.0, above(0), "T of both networks' predictions")

    trained = ("student",)
    frozen = ("robust_teacher",)

    def perturb(self, context, key):
        """x', and the student whose statistics the attack may have moved."""
        x_adv, student = self.attack(context, key, context.nets["student"], context.batch.label)
        return x_adv, {"student": student}

    def loss(self, context, adversarial, key):
        """Training forwards: adversarial, clean."""
        x, y, t = context.batch.image, context.batch.label, self.temperature
        teacher = jax.lax.stop_gradient(context.nets["robust_teacher"].logits_fn(x))
        robust, student = context.nets["student"].train(adversarial)
        clean, student = student.train(x)
        values = self.a * t**2 * losses.kl(teacher, robust, t) + (1 - self.a) * losses.cross_entropy(clean, y)
        return context.mean(values), Aux({"student": student}, metrics=accuracy(context, clean=clean, robust=robust))
