"""MAT against losses written anew in PyTorch from the specification: value, gradients, statistics."""

import jax.numpy as jnp
import numpy as np

from advjax.methods import MAT, MATUnion
from tests.methods.by_hand import loss_and_gradients, make_context
from tests.methods.torch_net import F, assert_parity, assert_same_statistics, images, tensor, to_flax, to_torch, torch


def crafted_images(context, count):
    """Some images that stand for adversarial examples, the same for both sides."""
    rng = np.random.default_rng(5)
    return [jnp.asarray(rng.uniform(0, 1, context.batch.image.shape), jnp.float32) for _ in range(count)]


def kl(q_logits, p_logits, temperature=1.0):
    q = F.softmax(q_logits.detach() / temperature, 1)
    log_p = F.log_softmax(p_logits / temperature, 1)
    return (q * (q.log() - log_p)).sum(1).mean()


def test_mat():
    method = MAT(peers=3, a=0.3, b=0.7, c=0.6, temperature=2.0)
    context = make_context(method)
    xs = crafted_images(context, 3)
    adversarial = dict(zip(method.trained, xs, strict=True))
    value, gradients, aux = loss_and_gradients(method, context, adversarial)

    nets = [to_torch(context.nets[name]) for name in method.trained]
    label = tensor(context.batch.label).long()
    together = torch.cat([images(x) for x in xs])
    z = [net(together).split(8) for net in nets]  # z[k][j]: peer k on x_j
    total = 0.0
    for k in range(3):
        others = [j for j in range(3) if j != k]
        total = total + 0.7 * F.cross_entropy(z[k][k], label)
        total = total + 0.3 * 4 / 2 * sum(kl(z[j][k], z[k][k], 2.0) for j in others)
        for j in others:
            total = total + 0.7 / 2 * (0.4 * F.cross_entropy(z[k][j], label) + 0.6 * 4 * kl(z[j][j], z[k][j], 2.0))
    total.backward()

    np.testing.assert_allclose(value, total.item(), rtol=1e-5)
    for name, net in zip(method.trained, nets, strict=True):
        assert_parity(gradients[name], to_flax(net))
        assert_same_statistics(aux.nets[name].stats, net)


def test_mat_union():
    method = MATUnion(a=0.3, b=0.7, c=0.6, a_specialist=0.4, temperature=2.0)
    context = make_context(method)
    xs = crafted_images(context, 6)
    value, gradients, aux = loss_and_gradients(method, context, xs)

    norms = ("l1", "l2", "linf")
    x_g, x_s = dict(zip(norms, map(images, xs[:3]), strict=True)), dict(zip(norms, map(images, xs[3:]), strict=True))
    label = tensor(context.batch.label).long()
    generalist = to_torch(context.nets["generalist"])
    specialists = {p: to_torch(context.nets[f"specialist_{p}"]) for p in norms}
    z = generalist(torch.cat([*x_g.values(), *x_s.values()])).split(8)
    g_on_g, g_on_s = dict(zip(norms, z[:3], strict=True)), dict(zip(norms, z[3:], strict=True))
    total = 0.0
    for p in norms:
        s_on_s, s_on_g = specialists[p](torch.cat([x_s[p], x_g[p]])).split(8)
        total = total + F.cross_entropy(s_on_s, label) + 0.4 * 4 * kl(g_on_s[p], s_on_s, 2.0)
        own = 0.7 * F.cross_entropy(g_on_g[p], label) + 0.3 * 4 * kl(s_on_g, g_on_g[p], 2.0)
        theirs = 0.4 * F.cross_entropy(g_on_s[p], label) + 0.6 * 4 * kl(s_on_s, g_on_s[p], 2.0)
        total = total + (own + 0.7 * theirs) / 3
    total.backward()

    np.testing.assert_allclose(value, total.item(), rtol=1e-5)
    for name, net in {"generalist": generalist, **{f"specialist_{p}": specialists[p] for p in norms}}.items():
        assert_parity(gradients[name], to_flax(net))
        assert_same_statistics(aux.nets[name].stats, net)
