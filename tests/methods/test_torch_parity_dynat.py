"""DYNAT in PyTorch, written from the specification: attack, labels, loss, every gradient, statistics."""

import jax
import numpy as np
import pytest

from advjax import threat
from advjax.methods import DYNAT, TrainingAttack
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


@pytest.mark.parametrize(
    "method",
    [DYNAT(ATTACK), DYNAT(ATTACK, inner="kl", beta=0.2), DYNAT(ATTACK, inner="kl", beta=0.2, kl_weight=1.0)],
    ids=["main", "trades-inner", "with-kl"],
)
def test_parity(method):
    context = make_context(method)
    adversarial = method.perturb(context, KEY)[0]
    loss, gradients, aux = loss_and_gradients(method, context, adversarial)

    guide, target = (to_torch(context.nets[name]) for name in ("guide", "target"))
    x, y = images(context.batch.image), tensor(context.batch.label).long()
    z = guide(x)
    label = z.argmax(1)
    batch = context.batch
    start = threat.random_start(jax.random.fold_in(KEY, 0), batch.image, batch.id, "linf", 0.1, "normal")
    target.eval()
    with torch.no_grad():
        p_clean = F.softmax(target(x), 1)

    def objective(x_adv):
        if method.inner == "ce":
            return F.cross_entropy(target(x_adv), label, reduction="sum")
        return F.kl_div(F.log_softmax(target(x_adv), 1), p_clean, reduction="sum")

    x_adv = pgd(objective, x, images(start), eps=0.1, step_size=0.02, steps=10)
    target.train()
    z_adv = target(x_adv)
    if method.kl_weight:
        z_clean = target(x)
        kl = F.kl_div(F.log_softmax(z_adv, 1), F.softmax(z_clean, 1), reduction="batchmean")
    else:
        with torch.no_grad():
            target(x)
        kl = 0.0
    total = F.cross_entropy(z, y) + method.beta * F.cross_entropy(z_adv, label) + method.kl_weight * kl
    total.backward()

    np.testing.assert_array_equal(adversarial[1], label)
    np.testing.assert_allclose(adversarial[0], x_adv.permute(0, 2, 3, 1), atol=1e-5)
    np.testing.assert_allclose(loss, total.item(), rtol=1e-4)
    for name, module in (("guide", guide), ("target", target)):
        assert_parity(gradients[name], to_flax(module))
        assert_same_statistics(aux.nets[name].stats, module)
