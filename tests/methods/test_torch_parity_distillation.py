"""Distillation in PyTorch, written from the specification: attack, loss, gradients, statistics in their order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import threat
from advjax.methods import ARD, LBGAT, RSLAD, AdaAD, TrainingAttack
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

ATTACK = TrainingAttack(eps=0.1, step_size=0.02, steps=5, start="normal")
KEY = jax.random.key(1)


def log_softmax(z):
    return F.log_softmax(z, 1)


def kl(teacher, student, temperature=1.0):
    """KL(teacher || student) per image."""
    q = log_softmax(teacher / temperature)
    return (q.exp() * (q - log_softmax(student / temperature))).sum(1)


def floored(teacher, student, temperature=1.0):
    """KL~ per image, times C for its mean over the classes."""
    q = F.softmax(teacher / temperature, 1)
    return (q * (torch.log(q + 1e-5) - log_softmax(student))).sum(1)


def ard(nets, x, x_adv, y, method):
    robust, clean = nets["student"](x_adv), nets["student"](x)
    distilled = F.kl_div(log_softmax(robust / 4), F.softmax(nets["robust_teacher"](x) / 4, 1), reduction="none").mean()
    return 0.7 * 16 * distilled + 0.3 * F.cross_entropy(clean, y)


def rslad(nets, x, x_adv, y, method):
    robust, clean, soft = nets["student"](x_adv), nets["student"](x), nets["robust_teacher"](x)
    return 10 * (5 / 6 * floored(soft, robust) + 1 / 6 * floored(soft, clean)).mean() / 3


def adaad(nets, x, x_adv, y, method):
    teacher, student = nets["robust_teacher"], nets["student"]
    clean, robust = student(x), student(x_adv)
    terms = [
        F.kl_div(log_softmax(ours), F.softmax(theirs, 1), reduction="none")
        for ours, theirs in ((robust, teacher(x_adv)), (clean, teacher(x)))
    ]
    robust, clean = (term.mean() if method.reduction == "elements" else term.sum() / len(x) for term in terms)
    return method.alpha * robust + (1 - method.alpha) * clean


def lbgat(nets, x, x_adv, y, method):
    robust, clean, guide = nets["target"](x_adv), nets["target"](x), nets["guide"](x)
    return F.mse_loss(robust, guide) + F.cross_entropy(guide, y) + 6 * kl(clean, robust).mean()


def on_labels(nets, x, x_adv, y):
    return F.cross_entropy(nets["student"](x_adv), y)


def on_soft_labels(nets, x, x_adv, y):
    return kl(nets["robust_teacher"](x).detach(), nets["student"](x_adv)).sum()


def on_both(nets, x, x_adv, y):
    return kl(nets["robust_teacher"](x_adv), nets["student"](x_adv)).sum()


def on_the_target(nets, x, x_adv, y):
    return kl(nets["target"](x).detach(), nets["target"](x_adv)).sum()


CASES = {
    "ard": (ARD(ATTACK, alpha=0.7, temperature=4.0), on_labels, ard),
    "rslad": (RSLAD(ATTACK, scale=10.0), on_soft_labels, rslad),
    "adaad": (AdaAD(ATTACK, alpha=0.7), on_both, adaad),
    "adaad-cifar100": (AdaAD(ATTACK, reduction="batch"), on_both, adaad),
    "lbgat": (LBGAT(ATTACK, beta=6.0), on_the_target, lbgat),
}


@pytest.mark.parametrize("name", CASES)
def test_parity(name):
    method, objective, theirs = CASES[name]
    context = make_context(method, epoch=4)
    x_adv = method.perturb(context, KEY)[0]
    loss, gradients, aux = loss_and_gradients(method, context, x_adv)

    nets = {name: to_torch(net).eval().requires_grad_(name in method.trained) for name, net in context.nets.items()}
    batch = context.batch
    x, y = images(batch.image), tensor(batch.label).long()
    start = threat.random_start(jax.random.fold_in(KEY, 0), batch.image, batch.id, "linf", 0.1, "normal")
    found = pgd(lambda x_adv: objective(nets, x, x_adv, y), x, images(start), eps=0.1, step_size=0.02, steps=5)
    for name in method.trained:
        nets[name].train()
    total = theirs(nets, x, images(x_adv), y, method)
    total.backward()

    # A sign of a gradient that is zero up to rounding may differ in a few pixels.
    assert np.mean(np.abs(x_adv - found.permute(0, 2, 3, 1).numpy()) > 1e-5) < 0.02
    np.testing.assert_allclose(loss, total.item(), rtol=1e-5)
    for name in method.trained:
        assert_parity(gradients[name], to_flax(nets[name]))
        assert_same_statistics(aux.nets[name].stats, nets[name])
        assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(gradients[name])) > 1e-4
