"""MART, and a step of AWP around it, in PyTorch, written from the specification."""

import copy

import jax
import numpy as np

from advjax import threat
from advjax.methods import AWP, MART, TrainingAttack
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
KEY = jax.random.key(1)


def torch_loss(net, x, x_adv, y):
    p, z_adv = F.softmax(net(x), 1), net(x_adv)
    p_adv = F.softmax(z_adv, 1)
    wrong = p_adv.masked_fill(F.one_hot(y, CLASSES).bool(), -1.0).max(1).values
    boosted = F.cross_entropy(z_adv, y) + (-torch.log(1.0001 - wrong + 1e-12)).mean()
    kl = (p * (torch.log(p) - torch.log(p_adv + 1e-12))).sum(1)
    return boosted + 5.0 * ((1.0000001 - p[range(len(y)), y]) * kl).mean()


def crafted_in_torch(context):
    net, batch = to_torch(context.nets["model"]), context.batch
    x, y = images(batch.image), tensor(batch.label).long()
    start = threat.random_start(jax.random.fold_in(KEY, 0), batch.image, batch.id, "linf", 0.1, "normal")
    net.eval()

    def objective(x_adv):
        return F.cross_entropy(net(x_adv), y, reduction="sum")

    x_adv = pgd(objective, x, images(start), eps=0.1, step_size=0.02, steps=10)
    return net.train(), x, x_adv, y


def test_mart():
    method = MART(ATTACK)
    context = make_context(method)
    adversarial = method.perturb(context, KEY)[0]
    loss, gradients, aux = loss_and_gradients(method, context, adversarial)
    net, x, x_adv, y = crafted_in_torch(context)
    total = torch_loss(net, x, x_adv, y)
    total.backward()
    np.testing.assert_allclose(adversarial, x_adv.permute(0, 2, 3, 1), atol=1e-5)
    np.testing.assert_allclose(loss, total.item(), rtol=1e-4)
    assert_parity(gradients["model"], to_flax(net))
    assert_same_statistics(aux.nets["model"].stats, net)


def test_awp():
    """A proxy that takes a plain ascent step, as its authors write it; loss, gradients and statistics at w + v."""
    method = AWP(MART(ATTACK), gamma=0.01)
    context = make_context(method, phase=(None, True))
    adversarial = method.perturb(context, KEY)[0]
    displaced = context.with_params(method.perturb_weights(context, adversarial, KEY))
    loss, gradients, aux = loss_and_gradients(method, displaced, adversarial)

    net, x, x_adv, y = crafted_in_torch(context)
    proxy = copy.deepcopy(net)
    optimizer = torch.optim.SGD(proxy.parameters(), lr=0.01)
    (-torch_loss(proxy, x, x_adv, y)).backward()
    optimizer.step()
    with torch.no_grad():
        for (name, parameter), moved in zip(net.named_parameters(), proxy.parameters(), strict=True):
            if parameter.dim() > 1 and "weight" in name:
                difference = moved - parameter
                parameter += 0.01 * parameter.norm() / (difference.norm() + 1e-20) * difference
    total = torch_loss(net, x, x_adv, y)
    total.backward()
    np.testing.assert_allclose(loss, total.item(), rtol=1e-4)
    assert_parity(displaced.nets["model"].params, to_flax(net, lambda parameter: parameter))
    assert_parity(gradients["model"], to_flax(net), 1e-3)
    assert_same_statistics(aux.nets["model"].stats, net)
