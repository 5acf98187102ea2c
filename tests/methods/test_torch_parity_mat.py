"""MAT against losses written anew in PyTorch from the specification: value, gradients, statistics."""

import jax
import jax.numpy as jnp
import numpy as np

from advjax.methods import MAT, MATUnion
from tests.methods import by_hand
from tests.methods.by_hand import make_context
from tests.methods.torch_net import F, assert_parity, assert_same_statistics, images, tensor, to_flax, to_torch, torch


def crafted_images(context, count):
    """Some images that stand for adversarial examples, the same for both sides."""
    rng = np.random.default_rng(5)
    return [jnp.asarray(rng.uniform(0, 1, context.batch.image.shape), jnp.float32) for _ in range(count)]


def kl(q_logits, p_logits, temperature=1.0):
    q = F.softmax(q_logits.detach() / temperature, 1)
    log_p = F.log_softmax(p_logits / temperature, 1)
    return (q * (q.log() - log_p)).sum(1).mean()


def loss_and_gradients(method, context, adversarial):
    """As in by_hand.py, compiled."""
    return jax.jit(lambda adversarial: by_hand.loss_and_gradients(method, context, adversarial))(adversarial)


def test_mat_as_in_the_figure():
    method = MAT(peers=3, a=0.3, temperature=2.0)
    context = make_context(method)
    xs = crafted_images(context, 3)
    value, gradients, aux = loss_and_gradients(method, context, dict(zip(method.trained, xs, strict=True)))

    nets = [to_torch(context.nets[name]) for name in method.trained]
    label = tensor(context.batch.label).long()
    robust = [net(images(x)) for net, x in zip(nets, xs, strict=True)]
    with torch.no_grad():
        clean = [net(images(context.batch.image)) for net in nets]
    total = 0.0
    for k in range(3):
        taught = sum(kl(clean[j], robust[k], 2.0) for j in range(3) if j != k) / 2
        total = total + 0.7 * F.cross_entropy(robust[k], label) + 0.3 * 4 * taught
    total.backward()

    np.testing.assert_allclose(value, total.item(), rtol=1e-5)
    for name, net in zip(method.trained, nets, strict=True):
        assert_parity(gradients[name], to_flax(net))
        assert_same_statistics(aux.nets[name].stats, net)


def test_mat_with_exchange():
    method = MAT(peers=3, form="exchange", a=0.3, b=0.7, c=0.6, temperature=2.0)
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


def test_mat_union_as_the_figure_suggests():
    method = MATUnion(a=0.3, a_specialist=0.4, temperature=2.0)
    context = make_context(method)
    xs = crafted_images(context, 6)
    value, gradients, aux = loss_and_gradients(method, context, xs)

    label = tensor(context.batch.label).long()
    names = ("generalist", "specialist_l1", "specialist_l2", "specialist_linf")
    generalist, *specialists = nets = [to_torch(context.nets[name]) for name in names]
    by_g = generalist(torch.cat([images(x) for x in xs[:3]])).split(8)
    by_s = [net(images(x)) for net, x in zip(specialists, xs[3:], strict=True)]
    with torch.no_grad():
        clean = images(context.batch.image)
        from_g = generalist(clean)
        from_s = sum(F.softmax(net(clean) / 2.0, 1) for net in specialists) / 3
    total = 0.0
    for g, s in zip(by_g, by_s, strict=True):
        total = total + F.cross_entropy(s, label) + 0.4 * 4 * kl(from_g, s, 2.0)
        taught = (from_s * (from_s.log() - F.log_softmax(g / 2.0, 1))).sum(1).mean()
        total = total + (0.7 * F.cross_entropy(g, label) + 0.3 * 4 * taught) / 3
    total.backward()

    np.testing.assert_allclose(value, total.item(), rtol=1e-5)
    for name, net in zip(names, nets, strict=True):
        assert_parity(gradients[name], to_flax(net))
        assert_same_statistics(aux.nets[name].stats, net)


def test_mat_union_with_exchange():
    method = MATUnion(form="exchange", a=0.3, b=0.7, c=0.6, a_specialist=0.4, temperature=2.0)
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
