"""GAIRAT and MAIL in PyTorch, from the specification: what the attack counts, weights, loss and gradients."""

import jax
import numpy as np
import pytest

from advjax import threat
from advjax.methods import GAIRAT, MAIL, PGDAT, TRADES, TrainingAttack
from tests.methods.by_hand import loss_and_gradients, make_context
from tests.methods.torch_net import F, assert_parity, images, pgd, tensor, to_flax, to_torch, torch

ATTACK = TrainingAttack(eps=0.1, step_size=0.02, steps=10)
AT = PGDAT(ATTACK, clean_statistics=False)
KEY = jax.random.key(1)


@pytest.mark.parametrize("method", [GAIRAT(AT), MAIL(AT), MAIL(TRADES(ATTACK, beta=5.0), slope=2.0, bias=0.0)])
def test_weights(method):
    context = make_context(method, phase=(None, True))
    adversarial, nets = method.perturb(context, KEY)
    context = context.with_nets(nets)
    loss, gradients, _ = loss_and_gradients(method, context, adversarial)
    net, batch = to_torch(context.nets["model"]), context.batch
    x, y = images(batch.image), tensor(batch.label).long()
    start = threat.random_start(jax.random.fold_in(KEY, 0), batch.image, batch.id, "linf", 0.1, "uniform")
    trades, kappa = isinstance(method.base, TRADES), torch.zeros(8)
    net.eval()
    p_clean = F.softmax(net(x), 1).detach()

    def objective(x_adv):
        nonlocal kappa
        z = net(x_adv)
        kappa = kappa + (z.argmax(1) == y).float()
        return (
            F.kl_div(F.log_softmax(z, 1), p_clean, reduction="sum")
            if trades
            else F.cross_entropy(z, y, reduction="sum")
        )

    x_adv = pgd(objective, x, images(start), eps=0.1, step_size=0.02, steps=10)
    net.train()
    if trades:
        z = net(x)
        z_adv = net(x_adv)
        net(x)
    else:
        z_adv = net(x_adv)
    if isinstance(method, GAIRAT):
        np.testing.assert_array_equal(context.nets["model"].survived, kappa)
        w = (torch.tanh(-1 + 5 * (5 - kappa) / 5) + 1) / 2
        w = w * 8 / w.sum()
    else:
        p = F.softmax(z_adv, 1).detach()
        margin = p.masked_fill(F.one_hot(y, 3).bool(), -1.0).max(1).values - p[range(8), y]
        w = 3 * torch.sigmoid(method.slope * (margin + method.bias))
    if trades:
        kl = F.kl_div(F.log_softmax(z_adv, 1), F.softmax(z, 1), reduction="none").sum(1)
        total = F.cross_entropy(z, y) + 5 * (w * kl).mean()
    else:
        total = (w * F.cross_entropy(z_adv, y, reduction="none")).mean()
    total.backward()
    assert w.std() > 0.05
    np.testing.assert_allclose(loss, total.item(), rtol=1e-4)
    assert_parity(gradients["model"], to_flax(net))
