"""SGLR on AT, TRADES and MART in PyTorch, from the specification: attack, memory, loss, gradients, statistics."""

import jax
import numpy as np
import pytest

from advjax import threat
from advjax.methods import MART, PGDAT, SGLR, TRADES, TrainingAttack
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

ATTACK = TrainingAttack(eps=0.1, step_size=0.02, steps=10)
KEY = jax.random.key(1)


@pytest.mark.parametrize("base", ["at", "trades", "mart"])
def test_parity(base):
    method = {
        "at": SGLR(PGDAT(ATTACK, clean_statistics=False)),
        "trades": SGLR(TRADES(ATTACK, order="clean-adv"), one_more="adv"),
        "mart": SGLR(MART(ATTACK, beta=6.0), one_more="none"),
    }[base]
    rows = jax.nn.softmax(jax.random.normal(jax.random.key(5), (8, CLASSES)))
    context = make_context(method, phase=(None, "refine"), rows=((), rows))
    adversarial = method.perturb(context, KEY)[0]
    loss, gradients, aux = loss_and_gradients(method, context, adversarial)

    net, batch = to_torch(context.nets["model"]), context.batch
    x, y = images(batch.image), tensor(batch.label).long()
    start = threat.random_start(jax.random.fold_in(KEY, 0), batch.image, batch.id, "linf", 0.1, "uniform")
    net.eval()
    with torch.no_grad():
        p_clean = F.softmax(net(x), 1)

    def objective(x_adv):
        if base == "trades":
            return F.kl_div(F.log_softmax(net(x_adv), 1), p_clean, reduction="sum")
        return F.cross_entropy(net(x_adv), y, reduction="sum")

    x_adv = pgd(objective, x, images(start), eps=0.1, step_size=0.02, steps=10)
    net.train()
    if base == "at":
        z_adv, z = net(x_adv), net(x)
    elif base == "trades":
        z = net(x)
        net(x_adv)
        z_adv = net(x_adv)
    else:
        z, z_adv = net(x), net(x_adv)
    p, p_adv = F.softmax(z, 1), F.softmax(z_adv, 1)
    memory = (0.9 * tensor(rows) + 0.1 * (0.2 * p + 0.8 * p_adv)).detach()

    def cross_entropy(logits):
        return -(memory * F.log_softmax(logits, 1)).sum(1).mean()

    if base == "at":
        total = cross_entropy(z_adv)
    elif base == "trades":
        total = cross_entropy(z) + 6.0 * F.kl_div(torch.log(p_adv), p, reduction="batchmean")
    else:
        wrong = p_adv.masked_fill(F.one_hot(y, CLASSES).bool(), -1.0).max(1).values
        boosted = cross_entropy(z_adv) + (-torch.log(1.0001 - wrong + 1e-12)).mean()
        kl = F.kl_div(torch.log(p_adv + 1e-12), p, reduction="none").sum(1)
        total = boosted + 6.0 * (kl * (1.0000001 - p[range(8), y])).mean()
    total.backward()

    np.testing.assert_allclose(adversarial, x_adv.permute(0, 2, 3, 1), atol=1e-5)
    np.testing.assert_allclose(loss, total.item(), rtol=1e-4)
    np.testing.assert_allclose(aux.state.per_example[1], memory, rtol=1e-4)
    assert_parity(gradients["model"], to_flax(net))
    assert_same_statistics(aux.nets["model"].stats, net)
