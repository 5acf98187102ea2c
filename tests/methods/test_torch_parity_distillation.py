"""Distillation in PyTorch, written from the specification: attack, loss, gradients, statistics in their order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import threat
from advjax.methods import ARD, CIARD, IADI, IADII, IGDM, KD, LBGAT, RSLAD, SAADC, AdaAD, TrainingAttack
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


def trust(nets, x_adv, y):
    return F.softmax(nets["robust_teacher"](x_adv), 1)[range(len(y)), y] ** 0.1


def iad_i(nets, x, x_adv, y, method):
    student = nets["student"]
    robust = student(x_adv)
    student(x_adv)
    distilled = 4 * kl(nets["robust_teacher"](x), robust, 2)
    if method.begin < 0.5:
        distilled = distilled + (1 - trust(nets, x_adv, y)) * kl(student(x), robust)
    return 0.7 * distilled.mean() + 0.3 * F.cross_entropy(student(x), y)


def iad_ii(nets, x, x_adv, y, method):
    student, on_x_adv = nets["student"], {name: net(x_adv) for name, net in nets.items() if name != "student"}
    robust, a = student(x_adv), 1.0
    term = kl(on_x_adv["robust_teacher"], robust, 2)
    if method.begin < 0.5:
        a = trust(nets, x_adv, y)
        term = a * term + (1 - a) * kl(student(x), robust)
    soft = kl(on_x_adv["clean_teacher"], robust, 2)
    return 0.25 * F.cross_entropy(robust, y) + (0.5 * 4 * term + 0.25 * 4 * soft).mean()


def kd(nets, x, x_adv, y, method):
    robust = nets["student"](x_adv)
    total = 0.3 * F.cross_entropy(robust, y)
    for name, weight in (("clean_teacher", 0.1), ("robust_teacher", 0.6)):
        total = total - weight * 4 * (F.softmax(nets[name](x_adv) / 2, 1) * log_softmax(robust / 2)).sum(1).mean()
    return total


def igdm(nets, x, x_adv, y, method):
    """At epoch 5 of 10, counted from 1."""
    teacher, student, behind = nets["robust_teacher"], nets["student"], x - (x_adv - x)
    robust = student(x_adv)
    base = kl(teacher(x_adv), robust)
    return (base + 5 * 5 / 10 * kl(teacher(x_adv) - teacher(behind), robust - student(behind))).mean()


def igdm_ard(nets, x, x_adv, y, method):
    teacher, student, behind = nets["robust_teacher"], nets["student"], x - (x_adv - x)
    robust, clean, opposite = student(x_adv), student(x), student(behind)
    base = 0.7 * 16 / 3 * kl(teacher(x), robust, 4).mean() + 0.3 * F.cross_entropy(clean, y)
    return base + 5 * 5 / 10 * kl(teacher(x_adv) - teacher(behind), robust - opposite).mean()


def saad_c(nets, x, x_adv, y, method):
    teacher, student, behind = nets["robust_teacher"], nets["student"], x - (x_adv - x)
    robust, opposite, clean = student(x_adv), student(behind), student(x)
    p = F.softmax(teacher(x_adv), 1)
    entropy = -torch.log((p**method.entropy_order).sum(1)) if method.entropy_order == 2 else -(p * p.log()).sum(1)
    w = 5 * (entropy - entropy.min())
    relative = (w - w.min()) / (w.max() - w.min() + 1e-8)
    matching = kl(teacher(x_adv) - teacher(behind), robust - opposite)
    weighted = w * (kl(teacher(x_adv), robust) + 10 * 5 / 10 * matching)
    return (weighted + 0.2 * (1 - relative) * kl(teacher(x), clean)).mean()


def ciard(nets, x, x_adv, y, method):
    """Both temperatures 1; what is multiplied with the push is a power of ten."""
    student, robust_teacher, clean_teacher = (nets[name] for name in ("student", "robust_teacher", "clean_teacher"))
    clean = student(x)
    robust_teacher(x)
    robust, r_adv = student(x_adv), robust_teacher(x_adv)
    adv, nat = (floored(t.detach(), z).mean() / 3 for t, z in ((r_adv, robust), (clean_teacher(x), clean)))
    misleading = clean_teacher(x_adv)
    wrong = misleading.argmax(1) != y
    assert 0 < wrong.sum() < len(x)
    push = floored(misleading[wrong], robust[wrong] / 5, 5).mean() / 3
    powers = [np.floor(np.log10(abs(value.item()))) for value in (adv, nat, push)]
    scale = 10 ** (min(powers[:2]) - powers[2])
    return adv + nat - scale * push + F.cross_entropy(r_adv, y)


def on_labels(nets, x, x_adv, y):
    return F.cross_entropy(nets["student"](x_adv), y)


def on_soft_labels(nets, x, x_adv, y):
    return kl(nets["robust_teacher"](x).detach(), nets["student"](x_adv)).sum()


def on_both(nets, x, x_adv, y):
    return kl(nets["robust_teacher"](x_adv), nets["student"](x_adv)).sum()


def on_a_linearised_teacher(nets, x, x_adv, y):
    x = x.detach().requires_grad_()
    z, rows = nets["robust_teacher"](x), range(len(y))
    (gradient,) = torch.autograd.grad(z[rows, y].sum(), x)
    z = z.detach().clone()
    z[rows, y] += (gradient * (x_adv - x.detach())).sum((1, 2, 3))
    return kl(z, nets["student"](x_adv)).sum()


def on_the_target(nets, x, x_adv, y):
    return kl(nets["target"](x).detach(), nets["target"](x_adv)).sum()


CASES = {
    "ard": (ARD(ATTACK, alpha=0.7, temperature=4.0), on_labels, ard),
    "rslad": (RSLAD(ATTACK, scale=10.0), on_soft_labels, rslad),
    "adaad": (AdaAD(ATTACK, alpha=0.7), on_both, adaad),
    "adaad-cifar100": (AdaAD(ATTACK, reduction="batch"), on_both, adaad),
    "lbgat": (LBGAT(ATTACK, beta=6.0), on_the_target, lbgat),
    "iad-i": (IADI(ATTACK, alpha=0.7, temperature=2.0, begin=0.6), on_labels, iad_i),
    "iad-i-late": (IADI(ATTACK, alpha=0.7, temperature=2.0, begin=0.3), on_labels, iad_i),
    "iad-ii": (IADII(ATTACK, temperature=2.0, begin=0.6), on_labels, iad_ii),
    "iad-ii-late": (IADII(ATTACK, temperature=2.0), on_labels, iad_ii),
    "kd": (KD(ATTACK), on_labels, kd),
    "igdm": (IGDM(AdaAD(ATTACK, reduction="batch", clean_statistics=False)), on_both, igdm),
    "igdm-ard": (IGDM(ARD(ATTACK, alpha=0.7, temperature=4.0)), on_labels, igdm_ard),
    "saad-c": (SAADC(ATTACK, alpha=10.0), on_a_linearised_teacher, saad_c),
    "saad-c-renyi": (SAADC(ATTACK, alpha=10.0, entropy_order=2.0), on_a_linearised_teacher, saad_c),
    "ciard": (CIARD(ATTACK), on_labels, ciard),
}


@pytest.mark.parametrize("name", CASES)
def test_parity(name):
    method, objective, theirs = CASES[name]
    context = make_context(method, epoch=4, phase=method.phase(4, 10))
    x_adv = method.perturb(context, KEY)[0]
    loss, gradients, aux = jax.jit(lambda x_adv: loss_and_gradients(method, context, x_adv))(x_adv)

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
