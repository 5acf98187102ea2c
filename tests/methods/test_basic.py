"""natural, PGD-AT, FGSM-RS and TRADES: defining identities, hand calculations, order of training forwards, devices."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax import losses, methods
from advjax.data import epoch_order
from advjax.errors import InputError
from advjax.methods import FGSMRS, PGDAT, TRADES, Natural, TrainingAttack
from advjax.methods.base import Network
from tests.helpers import SHAPE, Run, ToyNet, distance, toy_data
from tests.methods.by_hand import Inverted, first_batch, first_layer_mean, make_context

ATTACK = TrainingAttack(eps=0.1, step_size=0.05, steps=3)
NO_ATTACK = TrainingAttack(eps=0.1, steps=0, start="none")


def params_and_stats(run):
    return run.state.params, run.state.stats


@pytest.mark.parametrize(
    "method",
    [
        Natural(),
        Natural(label_smoothing=0.1),
        PGDAT(ATTACK),
        PGDAT(dataclasses.replace(ATTACK, statistics="batch")),
        PGDAT(dataclasses.replace(ATTACK, norm="l2", eps=0.5, step_size=0.2)),
        PGDAT(dataclasses.replace(ATTACK, norm="l1", eps=2.0, step_size=1.0)),
        FGSMRS(dataclasses.replace(ATTACK, steps=1, step_size=0.125, statistics="batch")),
        TRADES(dataclasses.replace(ATTACK, start="normal")),
    ],
    ids=lambda m: type(m).__name__,
)
def test_one_device_equals_four(method):
    # 22 examples in batches of 8: the third batch has two rows of padding, all on the last device.
    one, four = Run(method).step(4), Run(method, devices=4).step(4)
    assert distance(params_and_stats(one), params_and_stats(four)) < 2e-6
    assert distance(one.state.params, one.initial.params) > 1e-3
    for name, value in one.metrics.items():
        np.testing.assert_allclose(four.metrics[name], value, rtol=1e-5)


def test_pgd_at_without_attack_is_natural_training():
    at, natural = Run(PGDAT(NO_ATTACK, clean_statistics=False)).step(3), Run(Natural()).step(3)
    assert distance(params_and_stats(at), params_and_stats(natural)) == 0.0


def test_trades_with_beta_zero_has_the_gradients_of_natural_training():
    trades, natural = Run(TRADES(ATTACK, beta=0.0)).step(3), Run(Natural()).step(3)
    assert distance(trades.state.params, natural.state.params) < 1e-7


def test_natural_step_by_hand():
    """One step equals a gradient computed without the library's step, optimizer or BatchNorm mode."""
    data = toy_data()
    run = Run(Natural(), optimizer=optax.sgd(0.5)).step()
    index, weight = epoch_order(0, 0, len(data.label), 8)
    x, y = jnp.asarray(data.image[index[0]] / 255.0, jnp.float32), jnp.asarray(data.label[index[0]])
    variables = {"params": run.initial.params["model"], "batch_stats": run.initial.stats["model"]}

    def loss(params):
        logits, _ = ToyNet().apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        log_p = logits - jnp.log(jnp.sum(jnp.exp(logits), -1, keepdims=True))
        return -jnp.mean(log_p[jnp.arange(8), y])

    value, gradient = jax.value_and_grad(loss)(variables["params"])
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, variables["params"], gradient)
    assert weight[0].all()
    assert distance(run.state.params["model"], expected) < 1e-6
    np.testing.assert_allclose(run.metrics["loss"], value, rtol=1e-6)


class Dropping(nn.Module):
    """A linear network with dropout."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dropout(0.5, deterministic=not train)(nn.Dense(10)(x.reshape(len(x), -1)))


def test_a_forward_made_again_gives_back_the_logits_of_the_first():
    context = make_context(Natural())
    x = context.batch.image
    logits, once = context.nets["model"].train(x)
    again, twice = once.train(x, reuse_logits=logits)
    fresh, expected = once.train(x)
    assert again is logits
    np.testing.assert_array_equal(again, fresh)
    assert distance(twice.stats, expected.stats) == 0.0 < distance(twice.stats, once.stats)


def test_a_forward_made_again_draws_anew_where_there_is_dropout():
    module, x = Dropping(), jnp.ones((4, *SHAPE))
    net = Network(module, module.init(jax.random.key(0), x)["params"], {}, None, jax.random.key(1))
    logits, net = net.train(x)
    again, _ = net.train(x, reuse_logits=logits)
    assert np.mean(np.asarray(again) != np.asarray(logits)) > 0.2


def test_trades_loss_by_hand():
    """CE + 6 KL on the step's own batch, the KL as a sum over classes and a mean over the batch."""
    attack = dataclasses.replace(NO_ATTACK, start="uniform")
    run = Run(TRADES(attack))
    run.step()
    data = toy_data()
    index, _ = epoch_order(0, 0, len(data.label), 8)
    index = index[0]
    x, y = jnp.asarray(data.image[index] / 255.0, jnp.float32), data.label[index]
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 0), 1)  # (seed, step), the attack's purpose
    key = jax.random.fold_in(jax.random.fold_in(key, 0), 0)  # round, start
    noise = jnp.stack([jax.random.uniform(jax.random.fold_in(key, i), SHAPE, minval=-1.0) for i in index])
    x_adv = jnp.clip(x + 0.1 * noise, 0, 1)
    variables = {"params": run.initial.params["model"], "batch_stats": run.initial.stats["model"]}

    def probabilities(x):
        return np.asarray(
            jax.nn.softmax(ToyNet().apply(variables, x, train=True, mutable=["batch_stats"])[0]), np.float64
        )

    p, q = probabilities(x), probabilities(x_adv)
    natural = -np.log(p[np.arange(8), y]).mean()
    kl = (p * (np.log(p) - np.log(q))).sum(-1).mean()
    np.testing.assert_allclose(run.metrics["kl"], kl, rtol=1e-4)
    np.testing.assert_allclose(run.metrics["loss"], natural + 6 * kl, rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "moved"),
    [(Natural(), 0.1), (TRADES(NO_ATTACK), 0.271), (PGDAT(NO_ATTACK), 0.19), (FGSMRS(NO_ATTACK), 0.1)],
    ids=["natural", "trades", "pgd_at", "fgsm_rs"],
)
def test_number_of_forwards_that_move_the_statistics(method, moved):
    run = Run(method, optimizer=optax.sgd(0.0)).step()
    x = first_batch(run)
    expected = moved * first_layer_mean(run.initial.params["model"], x)
    np.testing.assert_allclose(run.state.stats["model"]["BatchNorm_0"]["mean"], expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("method", "clean", "adversarial"),
    [(TRADES(Inverted()), 0.181, 0.09), (PGDAT(Inverted()), 0.1, 0.09), (FGSMRS(Inverted()), 0.0, 0.1)],
    ids=["trades", "pgd_at", "fgsm_rs"],
)
def test_order_of_forwards(method, clean, adversarial):
    """running = 0.729 old + 0.181 clean + 0.09 adversarial for TRADES; PGD-AT's clean forward comes last."""
    run = Run(method, optimizer=optax.sgd(0.0)).step()
    x, params = first_batch(run), run.initial.params["model"]
    expected = clean * first_layer_mean(params, x) + adversarial * first_layer_mean(params, 1 - x)
    np.testing.assert_allclose(run.state.stats["model"]["BatchNorm_0"]["mean"], expected, rtol=1e-4, atol=1e-7)


def test_the_clean_forward_of_pgd_at_uses_the_updated_weights():
    run = Run(PGDAT(Inverted()), optimizer=optax.sgd(1.0)).step()
    x, before, after = first_batch(run), run.initial.params["model"], run.state.params["model"]
    expected = 0.09 * first_layer_mean(before, 1 - x) + 0.1 * first_layer_mean(after, x)
    np.testing.assert_allclose(run.state.stats["model"]["BatchNorm_0"]["mean"], expected, rtol=1e-4, atol=1e-7)


def test_attack_on_batch_statistics_moves_them_with_every_forward():
    """K attack forwards, the training one and the clean one: with the weights at rest the old statistics weigh 0.9^(K+2)."""
    attack = TrainingAttack(eps=1e-6, step_size=1e-6, steps=5, start="none", statistics="batch")
    run = Run(PGDAT(attack), optimizer=optax.sgd(0.0)).step()
    x, params = first_batch(run), run.initial.params["model"]
    expected = (1 - 0.9**7) * first_layer_mean(params, x)
    np.testing.assert_allclose(run.state.stats["model"]["BatchNorm_0"]["mean"], expected, rtol=1e-3, atol=1e-6)


def test_examples_lie_in_ball_and_box_and_raise_the_loss():
    @dataclasses.dataclass(frozen=True)
    class Watched(PGDAT):
        def loss(self, context, adversarial, key):
            value, aux = super().loss(context, adversarial, key)
            distance_to_clean = jnp.max(jnp.abs(adversarial - context.batch.image), (1, 2, 3))
            net, y = context.nets["model"], context.batch.label
            before, after = (losses.cross_entropy(net.logits_fn(x), y) for x in (context.batch.image, adversarial))
            gain = after - before
            extra = {"distance": context.metric(distance_to_clean), "gain": context.metric(gain)}
            return value, aux._replace(metrics={**aux.metrics, **extra})

    seen = Run(Watched(ATTACK)).step().metrics
    assert 0.09 < seen["distance"] <= 0.1 + 1e-6
    assert seen["gain"] > 0


def test_create_names_what_is_wrong():
    with pytest.raises(InputError, match=r"^name must be a method, it is 'trade'; did you mean trades"):
        methods.create("trade")
    with pytest.raises(InputError, match=r"^betta must be a hyperparameter of method trades.*did you mean beta"):
        methods.create("trades", betta=1.0)
    with pytest.raises(InputError, match=r"^beta must be a finite number, it is 'high'"):
        methods.create("trades", beta="high")
    with pytest.raises(InputError, match=r"^beta must be at least 0, it is -1"):
        methods.create("trades", beta=-1.0)
    with pytest.raises(InputError, match=r"^eps must be a number or a fraction"):
        TrainingAttack(eps="8/0")
    with pytest.raises(InputError, match=r"^start must be a start, it is 'gaussian'"):
        TrainingAttack(start="gaussian")
