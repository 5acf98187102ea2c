"""AWP: the perturbation, a whole step by hand (weight decay at w + v, weights restored), statistics, composition."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax import losses, methods
from advjax.errors import InputError
from advjax.methods import AWP, DYNAT, PGDAT, SGLR, TRADES, Method, Natural, TrainingAttack, Wrapper
from advjax.methods.awp import weight_perturbation
from advjax.training import schedules
from tests.helpers import Run, ToyNet, distance
from tests.methods.by_hand import Inverted, first_batch, first_layer_mean, loss_and_gradients, make_context

ATTACK = TrainingAttack(eps=0.1, step_size=0.05, steps=3)
KEY = jax.random.key(1)
ON = (None, True)


def norms(tree):
    return jax.tree.map(jnp.linalg.norm, jax.tree.map(jnp.ravel, tree))


def unit(array):
    return array / jnp.linalg.norm(array.ravel())


def test_perturbation_is_relative_to_each_kernel_and_leaves_the_rest():
    params = make_context(Natural()).nets["model"].params
    direction = jax.tree.map(lambda leaf: jnp.sin(100 * leaf), params)
    v = weight_perturbation(params, direction, 0.02)
    for layer in ("Conv_0", "Linear_0"):
        length, own = norms(v[layer]["kernel"]), norms(params[layer]["kernel"])
        np.testing.assert_allclose(length, 0.02 * own, rtol=1e-5)
        np.testing.assert_allclose(unit(v[layer]["kernel"]), unit(direction[layer]["kernel"]), rtol=1e-4)
    for layer, leaf in (("Linear_0", "bias"), ("BatchNorm_0", "scale"), ("BatchNorm_0", "bias")):
        assert not jnp.any(v[layer][leaf])
    scaled = jax.tree.map(lambda d: 1e-3 * d, direction)
    assert distance(v, weight_perturbation(params, scaled, 0.02)) < 1e-7
    nothing = weight_perturbation(params, jax.tree.map(jnp.zeros_like, params), 0.02)
    assert not any(jnp.any(leaf) for leaf in jax.tree.leaves(nothing))


def test_gamma_zero_is_the_method_itself():
    plain, awp = Run(PGDAT(ATTACK)).step(3), Run(AWP(PGDAT(ATTACK), gamma=0.0), phase=ON).step(3)
    assert distance((plain.state.params, plain.state.stats), (awp.state.params, awp.state.stats)) < 1e-7


def displaced_by_hand(run, x, y, gamma):
    """w, w + v and the gradient at w + v, without the library's step or wrapper."""
    variables = {"params": run.initial.params["model"], "batch_stats": run.initial.stats["model"]}

    def value(params):
        logits, _ = ToyNet().apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.mean(losses.cross_entropy(logits, y))

    w, direction = variables["params"], jax.grad(value)(variables["params"])
    at = dict(w)
    for layer in ("Conv_0", "Linear_0"):
        kernel, d = w[layer]["kernel"], direction[layer]["kernel"]
        v = gamma * jnp.sqrt(jnp.sum(kernel**2)) * d / jnp.sqrt(jnp.sum(d**2))
        at[layer] = {**w[layer], "kernel": kernel + v}
    return w, at, jax.grad(value)(at)


def labels_of(run, x):
    images = run.data.image / np.float32(255.0)
    return jnp.asarray([run.data.label[np.abs(images - np.asarray(row)).sum((1, 2, 3)).argmin()] for row in x])


def test_a_step_by_hand():
    """Two forwards, the optimizer's step at w + v (weight decay acts there), v taken away; statistics of AT-AWP."""
    optimizer = schedules.sgd(0.5, momentum=0.9, weight_decay=0.2)
    run = Run(AWP(PGDAT(Inverted()), gamma=0.3), optimizer=optimizer, phase=ON).step()
    x = first_batch(run)
    w, at, gradient = displaced_by_hand(run, 1 - x, labels_of(run, x), 0.3)
    expected = jax.tree.map(lambda w, at, g: w - 0.5 * (g + 0.2 * at), w, at, gradient)
    assert distance(w, at) > 0.01
    assert distance(run.state.params["model"], expected) < 1e-5
    # Adversarial at w + v, then clean at the new, restored weights; nothing is left of the proxy's forward.
    mean = 0.09 * first_layer_mean(at, 1 - x) + 0.1 * first_layer_mean(expected, x)
    np.testing.assert_allclose(run.state.stats["model"]["BatchNorm_0"]["mean"], mean, rtol=1e-3, atol=1e-6)


def test_weights_are_restored():
    run = Run(AWP(Natural(), gamma=0.3), optimizer=optax.sgd(0.0), phase=ON).step(2)
    assert distance(run.state.params, run.initial.params) == 0.0


@pytest.mark.parametrize(("warmup", "epochs", "first"), [(0.05, 200, 10), (0.1, 100, 10), (0.0, 200, 1)])
def test_warm_up(warmup, epochs, first):
    """From epoch 10 of 200 on, counted from 1, for TRADES-AWP; before, the weights are not moved."""
    method = AWP(SGLR(), warmup=warmup)
    active = [method.phase(epoch, epochs)[1] for epoch in range(epochs)]
    assert active == [False] * (first - 1) + [True] * (epochs - first + 1)
    assert method.phase(epochs - 1, epochs)[0] == (None, "refine")


def test_inactive_it_displaces_nothing():
    method = AWP(TRADES(ATTACK), gamma=0.3)
    context = make_context(method, phase=(None, False))
    at = method.perturb_weights(context, method.perturb(context, KEY)[0], KEY)
    assert distance(at["model"], context.nets["model"].params) == 0.0


def test_order_of_forwards_of_trades_awp():
    """adversarial, clean, clean: 0.729 old + 0.081 adversarial + 0.19 clean."""
    method = TRADES(Inverted(), order="adv-clean-clean")
    context = make_context(method)
    net, x = context.nets["model"], context.batch.image
    adversarial = method.perturb(context, KEY)[0]
    value, gradients, aux = loss_and_gradients(method, context, adversarial)
    old = 0.729 * net.stats["BatchNorm_0"]["mean"]
    new = 0.19 * first_layer_mean(net.params, x) + 0.081 * first_layer_mean(net.params, 1 - x)
    np.testing.assert_allclose(aux.nets["model"].stats["BatchNorm_0"]["mean"], old + new, rtol=1e-4, atol=1e-7)
    plain = loss_and_gradients(TRADES(Inverted()), context, adversarial)
    assert distance((value, gradients), plain[:2]) < 1e-6


def test_on_dynat_only_the_target_moves_and_its_proxy_ascends_trades_with_true_labels():
    base = DYNAT(Inverted(), inner="kl", beta=0.2, kl_weight=1.0)
    method = AWP(base, gamma=0.05)
    context = make_context(method, phase=ON)
    adversarial = method.perturb(context, KEY)[0]
    at = method.perturb_weights(context, adversarial, KEY)
    assert distance(at["guide"], context.nets["guide"].params) == 0.0
    target = context.nets["target"]
    trades = TRADES(Inverted(), beta=6.0)
    single = dataclasses.replace(context, nets={"model": target}, phase=None)
    _, gradients, _ = loss_and_gradients(trades, single, 1 - context.batch.image)
    v = weight_perturbation(target.params, gradients["model"], 0.05)
    moved = jax.tree.map(jnp.subtract, at["target"], target.params)
    assert distance(moved, v) < 1e-6
    assert norms(moved)["Conv_0"]["kernel"] > 0.04 * norms(target.params)["Conv_0"]["kernel"]


def test_on_sglr_ascent_and_descent_are_against_the_memory():
    method = AWP(SGLR(PGDAT(Inverted(), clean_statistics=False), alpha=1.0), gamma=0.05)
    y = make_context(method, phase=((None, "refine"), True)).batch.label
    wrong = jnp.eye(3)[(y + 1) % 3]
    context = make_context(method, phase=((None, "refine"), True), rows=(((), wrong), ()))
    adversarial = method.perturb(context, KEY)[0]
    at = method.perturb_weights(context, adversarial, KEY)
    net = context.nets["model"]

    def value(params):
        logits, _ = dataclasses.replace(net, params=params).train(1 - context.batch.image)
        return jnp.mean(losses.cross_entropy(logits, wrong))

    v = weight_perturbation(net.params, jax.grad(value)(net.params), 0.05)
    assert distance(jax.tree.map(jnp.subtract, at["model"], net.params), v) < 1e-6
    loss, _ = method.loss(context.with_params(at), adversarial, KEY)
    np.testing.assert_allclose(loss, value(at["model"]), rtol=1e-5)


def test_one_device_equals_four():
    # Padding on the last device: the direction is the gradient of the mean over the real examples of all devices.
    method = AWP(SGLR(PGDAT(ATTACK, clean_statistics=False)), gamma=0.05)
    one, four = (Run(method, devices=devices, phase=((None, "refine"), True)).step(3) for devices in (1, 4))
    parts = [(run.state.params, run.state.stats, run.state.method.per_example) for run in (one, four)]
    assert distance(*parts) < 5e-6
    assert distance(one.state.params, one.initial.params) > 1e-3


def test_a_wrapper_hands_on_all_that_a_method_is():
    assert {name for name in vars(Method) if not name.startswith("_")} <= set(vars(Wrapper))
    base = DYNAT()
    wrapped = AWP(base)
    for name in ("trained", "frozen", "averaged", "evaluated", "best_by", "update_groups", "perturb_each_group"):
        assert getattr(wrapped, name) == getattr(base, name)


def test_created_by_name():
    attack = TrainingAttack(steps=3)
    method = methods.create("trades_awp", attack, beta=5.0, awp_gamma=0.005, awp_warmup=0.05)
    assert method == AWP(TRADES(attack, beta=5.0), gamma=0.005, warmup=0.05)
    with pytest.raises(InputError, match=r"^name must be a method, it is 'trade'"):
        methods.create("trade_awp")
    with pytest.raises(InputError, match=r"^awp_gama must be .*did you mean awp_gamma"):
        methods.create("trades_awp", awp_gama=0.1)
    with pytest.raises(InputError, match=r"^awp_gamma must be a finite number"):
        methods.create("trades_awp", awp_gamma="0.1")
    with pytest.raises(InputError, match=r"^awp_gamma must be a hyperparameter of method trades"):
        methods.create("trades", awp_gamma=0.1)
    with pytest.raises(InputError, match=r"^awp_warmup must be between 0 and 1"):
        methods.create("trades_awp", awp_warmup=2.0)


@dataclasses.dataclass(frozen=True)
class Plain(Natural):
    """A method that has no name."""


@dataclasses.dataclass(frozen=True)
class Around(Wrapper):
    """A wrapper from outside, by default around a method that has no name."""

    base: Method = AWP(Plain(), gamma=0.5)


def test_a_wrapper_from_outside_may_go_around_a_method_from_outside():
    name = f"{__name__}:Around"
    base = methods.defaults(name)["base"]
    assert (base["name"], base["base"]["name"]) == ("advjax.methods.awp:AWP", f"{__name__}:Plain")
    assert methods.create(name) == methods.create(name, **methods.defaults(name)) == Around()
