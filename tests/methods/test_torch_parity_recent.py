"""TE, HAT, ReBAT, RPAT, FAT, ST-AT, DKL, DM, Consistency-AT, RAMP in PyTorch from the specification: loss, gradients."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from advjax.methods import DKL, DM, HAT, PGDAT, RAMP, RPAT, STAT, TE, TRADES, ConsistencyAT, ReBAT, TrainingAttack
from tests.helpers import CLASSES
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

ATTACK = TrainingAttack(eps=0.1, step_size=0.02, steps=10, start="normal")
FROZEN = TrainingAttack(eps=0.1, step_size=0.02, steps=10, start="normal", statistics="frozen")
KEY = jax.random.key(1)


def log_p(z):
    return F.log_softmax(z, 1)


def p(z):
    return F.softmax(z, 1)


def kl(q_logits, p_logits):
    """KL(q || p), a batch mean."""
    return F.kl_div(log_p(p_logits), p(q_logits), reduction="batchmean")


class Case:
    """A context in PyTorch: networks, images, labels."""

    def __init__(self, context):
        self.context = context
        self.nets = {name: to_torch(net) for name, net in context.nets.items()}
        self.net = self.nets["model"]
        self.x, self.y = images(context.batch.image), tensor(context.batch.label).long()

    def start(self, key=KEY):
        return images(ATTACK.start_of(self.context, key))

    def pgd(self, objective):
        return pgd(objective, self.x, self.start(), eps=0.1, step_size=0.02, steps=10)

    def squeezed(self, points):
        """up, low, and S of logits at several points."""
        true = torch.stack([p(z)[range(8), self.y] for z in points])
        least, most = true.argmin(0), true.argmax(0)
        z = torch.stack(points)
        up, low = z[least, range(8)], z[most, range(8)]
        return least, most, 0.5 * (kl(low.detach(), up) + kl(up.detach(), low))


def te(case, adversarial):
    x_adv, memory = images(adversarial[0]), tensor(adversarial[1])
    ensemble, w = memory / memory.sum(1, keepdim=True), 300 * np.exp(-5 * (1 - (4 + 1 - 4) / 3) ** 2)
    case.net.eval()
    old = tensor(case.context.state.per_example)
    np.testing.assert_allclose(memory, (0.9 * old + 0.1 * p(case.net(case.x))).detach(), rtol=1e-4)

    def objective(x_adv):
        away = ((p(case.net(x_adv)) - ensemble) ** 2).sum(1)
        return (F.cross_entropy(case.net(x_adv), case.y, reduction="none") + w / CLASSES * away).sum()

    np.testing.assert_allclose(x_adv, case.pgd(objective), atol=1e-5)
    case.net.train()
    z = case.net(x_adv)
    return F.cross_entropy(z, case.y) + w * ((p(z) - ensemble) ** 2).mean()


def hat(case, adversarial):
    x_adv = images(adversarial)
    z, z_adv, behind = case.net(case.x), case.net(x_adv), case.net(case.x + 2 * (x_adv - case.x))
    helper = case.nets["helper"].eval()(x_adv).argmax(1)
    return F.cross_entropy(z, case.y) + 2.5 * kl(z, z_adv) + 0.5 * F.cross_entropy(behind, helper)


def rebat(case, adversarial):
    x_adv, average = images(adversarial), case.nets["average"].eval()
    z = case.net(x_adv)
    return F.cross_entropy(z, case.y) + kl(average(x_adv).detach(), z)


def rpat_plus_plus(case, adversarial):
    x_adv, average = images(adversarial), case.nets["average"].eval()
    z, half = case.net(x_adv), (x_adv - case.x) / 2
    q = (average(case.x + half) - average(case.x) / 2).detach()
    return F.cross_entropy(z, case.y) + kl(q, z / 2)


def rpat(case, adversarial):
    x_adv = images(adversarial)
    z_adv, middle, z = case.net(x_adv), case.net((case.x + x_adv) / 2), case.net(case.x)
    return F.cross_entropy(z_adv, case.y) + F.mse_loss(middle, (z + z_adv) / 2)


def st_at(case, adversarial):
    keys = [jax.random.fold_in(KEY, purpose) for purpose in range(2)]
    points = [case.x, *(case.start(key) for key in keys)]
    case.net.bn.momentum = 0.0
    for _ in range(10):
        points = [point.detach().requires_grad_() for point in points]
        least, most, gap = case.squeezed([case.net(point) for point in points])
        slopes = torch.autograd.grad(gap, points)
        moved = []
        for chosen in (least, most):
            point, slope = torch.stack(points)[chosen, range(8)], torch.stack(slopes)[chosen, range(8)]
            moved.append(torch.clamp(case.x + torch.clamp(point + 0.02 * slope.sign() - case.x, -0.1, 0.1), 0, 1))
        points = [case.x, *moved]
    _, x_adv, x_col = points
    np.testing.assert_allclose(images(adversarial["adversarial"]), x_adv.detach(), atol=1e-5)
    np.testing.assert_allclose(images(adversarial["collaborative"]), x_col.detach(), atol=1e-5)
    case.net.bn.momentum = 0.1
    z, z_adv = case.net(case.x), case.net(x_adv.detach())
    case.net.bn.momentum = 0.0
    return F.cross_entropy(z, case.y) + 6 * case.squeezed([z, z_adv, case.net(x_col.detach())])[2]


def logit_distance(z, z_adv, q):
    """sum_jk q_j q_k (dz_jk(x) - dz_jk(x'))^2, per example."""
    d = z - z_adv
    return (q[:, :, None] * q[:, None, :] * (d[:, :, None] - d[:, None, :]) ** 2).sum((1, 2))


def dkl(case, adversarial):
    table = tensor(case.context.state.shared["table"])
    q = table[case.y] ** 0.4
    q = q / q.sum(1, keepdim=True)
    case.net.eval()
    z = case.net(case.x).detach()

    def objective(x_adv):
        z_adv = case.net(x_adv)
        return (-p(z) * log_p(z_adv)).sum() + 0.25 * logit_distance(z, z_adv, q).sum()

    x_adv = images(adversarial)
    np.testing.assert_allclose(x_adv, case.pgd(objective), atol=1e-5)
    case.net.train()
    z_adv, z = case.net(x_adv), case.net(case.x)
    soft = -(p(z).detach() * log_p(z_adv)).sum(1).mean()
    return F.cross_entropy(z, case.y) + 4 * soft + 20 / 4 * logit_distance(z, z_adv, q).mean()


def dm(case, adversarial):
    x_adv, case.net.bn.momentum = images(adversarial), 0.0
    fixed = case.net(case.x).detach()
    found = case.pgd(lambda x_adv: kl(fixed, case.net(x_adv)))
    np.testing.assert_allclose(x_adv, found, atol=1e-5)
    case.net.bn.momentum = 0.01
    z, z_adv = case.net(case.x), case.net(x_adv)
    return F.cross_entropy(z, case.y, label_smoothing=0.1) + 5 * kl(z, z_adv)


def consistency(case, adversarial):
    z = case.net(images(adversarial))
    one, other = z.chunk(2)
    first, second = p(one / 0.5), p(other / 0.5)
    middle = ((first + second) / 2).clamp(min=1e-8).log()
    js = 0.5 * sum(F.kl_div(middle, each, reduction="batchmean") for each in (first, second))
    return F.cross_entropy(z, case.y.repeat(2)) + js


def ramp(case, adversarial):
    case.net.eval()
    two = [F.cross_entropy(case.net(images(adversarial[n])), case.y, reduction="none") for n in ("l1", "linf")]
    l1 = (two[0] > two[1])[:, None, None, None]
    assert 0 < l1.sum() < 8
    np.testing.assert_array_equal(
        images(adversarial["worse"]), torch.where(l1, images(adversarial["l1"]), images(adversarial["linf"]))
    )
    case.net.train()
    z_l1, z_linf, worse = (case.net(images(adversarial[name])) for name in ("l1", "linf", "worse"))
    right = (z_linf.argmax(1) == case.y).float()
    pairs = (p(z_linf) * (log_p(z_linf) - log_p(z_l1))).sum(1)
    natural = F.cross_entropy(case.nets["natural"](case.x), case.y)
    return F.cross_entropy(worse, case.y) + 5 * (pairs * right).sum() / right.sum() + natural


CASES = {
    "te": (TE(ATTACK), "ensemble", te),
    "hat": (HAT(ATTACK), None, hat),
    "rebat": (ReBAT(ATTACK), (True, False), rebat),
    "rpat++": (ReBAT(ATTACK, regulariser="middle"), (True, False), rpat_plus_plus),
    "rpat": (RPAT(PGDAT(ATTACK, clean_statistics=False)), (None, None), rpat),
    "st_at": (STAT(FROZEN), None, st_at),
    "dkl": (DKL(ATTACK, gamma=0.4, attack_beta=1.0), None, dkl),
    "dm": (DM(FROZEN), None, dm),
    "consistency_at": (ConsistencyAT(ATTACK), None, consistency),
    "ramp": (RAMP(TrainingAttack(eps=0.1, steps=5), l1_eps=0.75), None, ramp),
}


def prepared(method, phase):
    """A context in which no state is where it starts."""
    context = replace(make_context(method, phase=phase, epoch=4), step=1)
    soft = jax.nn.softmax(2.0 * jax.random.normal(jax.random.key(5), (8, CLASSES)))
    if isinstance(method, TE):
        context = replace(context, state=context.state._replace(per_example=0.6 * soft))
    if isinstance(method, DKL):
        context = replace(context, state=context.state._replace(shared={**context.state.shared, "table": soft[:3]}))
    if isinstance(method, (ReBAT, RAMP)):
        other = make_context(TRADES(), seed=7).nets["model"]
        name = "average" if isinstance(method, ReBAT) else "natural"
        context = context.with_nets({name: other})
    return context


@pytest.mark.parametrize("name", CASES)
def test_parity(name):
    method, phase, in_torch = CASES[name]
    context = prepared(method, phase)
    adversarial, _ = method.perturb(context, KEY)
    loss, gradients, aux = loss_and_gradients(method, context, adversarial)
    case = Case(context)
    total = in_torch(case, adversarial)
    total.backward()
    np.testing.assert_allclose(loss, total.item(), rtol=1e-4)
    assert_parity(gradients["model"], to_flax(case.net), 5e-4)
    assert_same_statistics(aux.nets["model"].stats, case.net)
    if name == "ramp":
        assert_parity(gradients["natural"], to_flax(case.nets["natural"]))
