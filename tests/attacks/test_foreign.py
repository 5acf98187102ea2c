"""Attacking networks of other libraries: how each becomes a `logits_fn`."""

import functools

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from advjax.attacks import Stage, autoattack, cascade
from advjax.attacks.apgd import APGD
from tests.attacks import toy

KEY = jax.random.key(0)
CLASSES = 5
D = int(np.prod(toy.SHAPE))
STAGES = (Stage("apgd_ce", APGD("linf", "ce", 4, stop=True)),)


def attack(logits_fn, **options):
    """A strong enough attack breaks some images and, within a tiny radius, none; on one device and on four."""
    x = toy.images(8)
    y = np.argmax(logits_fn(x, *([KEY] if options.get("stochastic") else [])), -1).astype(np.int32)
    results = [
        cascade(logits_fn, KEY, x, y, norm="linf", eps=0.3, attacks=STAGES, batch_size=8, devices=devices, **options)
        for devices in (jax.devices()[:1], jax.devices())
    ]
    np.testing.assert_array_equal(results[0].robust, results[1].robust)
    assert results[0].robust.mean() < 1
    return results[0]


def test_linen():
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.relu(linen.Conv(4, (3, 3))(x))
            return linen.Dense(CLASSES)(x.reshape(len(x), -1))

    net = Net()
    variables = net.init(KEY, jnp.zeros((1, *toy.SHAPE)))
    attack(functools.partial(net.apply, variables))


def test_nnx():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(toy.SHAPE[-1], 4, (3, 3), rngs=rngs)
            self.head = nnx.Linear(toy.SHAPE[0] * toy.SHAPE[1] * 4, CLASSES, rngs=rngs)

        def __call__(self, x):
            return self.head(nnx.relu(self.conv(x)).reshape(len(x), -1))

    graph, state = nnx.split(Net(nnx.Rngs(0)))
    attack(lambda x: nnx.merge(graph, state)(x))


def test_equinox():
    eqx = pytest.importorskip("equinox", reason="needs the extra 'test' with equinox")
    net = eqx.nn.MLP(D, CLASSES, 16, 2, key=KEY)
    attack(jax.vmap(lambda image: net(image.reshape(-1))))


def test_haiku():
    hk = pytest.importorskip("haiku", reason="needs the extra 'test' with dm-haiku")
    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([16, CLASSES])(x.reshape(len(x), -1))))
    params = net.init(KEY, jnp.zeros((1, *toy.SHAPE)))
    attack(lambda x: net.apply(params, x))


def test_plain_function():
    attack(toy.network(CLASSES))


def test_parameters_on_one_device():
    """Weights that a function closes over and that were put on one device do not stop the others."""
    weights = jax.device_put(np.random.default_rng(0).normal(size=(D, CLASSES)), jax.devices()[0])
    attack(lambda x: x.reshape(len(x), -1) @ weights)


def test_randomised():
    f = toy.network(CLASSES)

    def noisy(x, key):
        return f(x + 0.05 * jax.random.normal(key, x.shape))

    assert "randomised" in attack(noisy, stochastic=True).flags


def test_rand_version_runs():
    f = toy.linear(np.random.default_rng(0).normal(size=(D, 2)))

    def noisy(x, key):
        return f(x + 0.01 * jax.random.normal(key, x.shape))

    x = toy.images(4)
    y = np.argmax(f(x), -1).astype(np.int32)
    result = autoattack(
        noisy, KEY, x, y, norm="l2", eps=3.0, version="rand", stochastic=True, batch_size=4, devices=jax.devices()[:1]
    )
    assert list(result.accuracy) == ["clean", "apgd_ce", "apgd_dlr"] and result.robust.mean() < 1
