"""B-MTARD against a loss written anew in PyTorch from the specification: value, gradients, state, attack."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from advjax.methods import BMTARD, TrainingAttack
from advjax.methods.bmtard import Balance
from tests.methods.by_hand import loss_and_gradients, make_context
from tests.methods.torch_net import (
    F,
    assert_parity,
    assert_same_statistics,
    images,
    pgd,
    tensor,
    to_flax,
    to_torch,
    torch,
)


def test_bmtard():
    method = BMTARD(scale=10.0, weight_rate=0.2, temperature_rate=0.1)
    context = make_context(method)
    shared = Balance(jnp.asarray([1.3, 2.4]), jnp.asarray([0.7, 0.3]), jnp.asarray([0.05, 0.2]), jnp.asarray(3))
    context = dataclasses.replace(context, state=context.state._replace(shared=shared))
    x_adv = jnp.asarray(np.random.default_rng(5).uniform(0, 1, context.batch.image.shape), jnp.float32)
    value, gradients, aux = loss_and_gradients(method, context, x_adv)

    student = to_torch(context.nets["student"])
    robust, clean = (to_torch(context.nets[name]).eval() for name in ("robust_teacher", "clean_teacher"))
    z_adv = student(images(x_adv))
    z_nat = student(images(context.batch.image))
    with torch.no_grad():
        t_adv, t_nat = robust(images(x_adv)), clean(images(context.batch.image))

    def distance(teacher, temperature, logits):
        q = F.softmax(teacher / temperature, 1)
        return 10.0 * (q * (torch.log(q + 1e-5) - F.log_softmax(logits, 1))).mean()

    def entropy(teacher, temperature):
        p = F.softmax(teacher / temperature, 1)
        return -(p * p.log()).sum(1).mean().item()

    losses = [distance(t_adv, 1.3, z_adv), distance(t_nat, 2.4, z_nat)]
    sign = np.sign(entropy(t_adv, 1.3) - entropy(t_nat, 2.4))
    relative = np.asarray([losses[0].item() / 0.05, losses[1].item() / 0.2])
    weights = 0.8 * np.asarray([0.7, 0.3]) + 0.2 * relative / relative.sum()
    loss = sum(float(w) * part for w, part in zip(weights, losses, strict=True))
    loss.backward()

    np.testing.assert_allclose(value, loss.item(), rtol=1e-5)
    assert_parity(gradients["student"], to_flax(student))
    assert_same_statistics(aux.nets["student"].stats, student)
    np.testing.assert_allclose(aux.state.shared.weights, weights, rtol=1e-5)
    np.testing.assert_allclose(aux.state.shared.temperatures, [max(1.3 - 0.1 * sign, 1), 2.4 + 0.1 * sign], rtol=1e-5)


def test_the_attack_of_bmtard():
    """Ten steps on the student's CE in evaluation mode, from the same noise."""
    method = BMTARD(TrainingAttack(start="normal"))
    context = make_context(method)
    key = jax.random.key(4)
    x_adv, moved = method.perturb(context, key)
    noise = [
        jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, 0), i), context.batch.image.shape[1:])
        for i in range(8)
    ]
    student, label = to_torch(context.nets["student"]).eval(), tensor(context.batch.label).long()
    x = images(context.batch.image)
    theirs = pgd(
        lambda x_adv: F.cross_entropy(student(x_adv), label),
        x,
        x + 0.001 * images(jnp.stack(noise)),
        eps=8 / 255,
        step_size=2 / 255,
        steps=10,
    )
    # A sign of a gradient that is zero up to rounding may differ in a few pixels.
    differ = np.abs(np.asarray(x_adv) - theirs.permute(0, 2, 3, 1).numpy()) > 1e-4
    assert differ.mean() < 0.02
    assert moved["student"].stats is context.nets["student"].stats
