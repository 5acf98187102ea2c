"""SGLR: the closed form of its gradient, its phases, its memory over steps, devices and checkpoints."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax import losses, parallel
from advjax.data import epoch_order
from advjax.errors import InputError
from advjax.methods import DYNAT, MART, PGDAT, SGLR, TRADES, TrainingAttack
from advjax.models.layers import TrainMode
from advjax.training.checkpoints import Checkpoints
from tests.helpers import CLASSES, Run, ToyNet, distance
from tests.methods.by_hand import Inverted, first_layer_mean, loss_and_gradients, make_context

ATTACK = TrainingAttack(eps=0.1, step_size=0.05, steps=3)
KEY = jax.random.key(1)


def soft_rows(batch=8):
    """A memory that has moved on from one-hot."""
    return jax.nn.softmax(jax.random.normal(jax.random.key(5), (batch, CLASSES)))


def refining(method, **kwargs):
    context = make_context(method, phase=(None, "refine"), rows=((), soft_rows()), **kwargs)
    return context, method.perturb(context, KEY)[0]


def training_probabilities(context, images):
    return jax.nn.softmax(context.nets["model"].train(images)[0])


def test_gradient_at_the_logits_has_its_closed_form():
    """dloss/dz = p_adv - S_new = 0.92 p_adv - 0.9 S_old - 0.02 p_clean, read off the gradient of the last bias."""
    method = SGLR(PGDAT(ATTACK, clean_statistics=False))
    context, adversarial = refining(method)
    _, gradients, aux = loss_and_gradients(method, context, adversarial)
    p_adv, p_clean = training_probabilities(context, adversarial), training_probabilities(context, context.batch.image)
    expected = 0.92 * p_adv - 0.9 * context.state.per_example[1] - 0.02 * p_clean
    np.testing.assert_allclose(gradients["model"]["Linear_0"]["bias"], jnp.mean(expected, 0), atol=1e-7)
    np.testing.assert_allclose(p_adv - aux.state.per_example[1], expected, atol=1e-6)
    np.testing.assert_allclose(jnp.sum(aux.state.per_example[1], -1), 1.0, rtol=1e-6)


def test_general_form():
    """Another (w_c, alpha, r, T): S and the loss, written out."""
    method = SGLR(PGDAT(ATTACK, clean_statistics=False), clean_weight=0.6, alpha=0.7, r=0.4, temperature=3.0)
    context, adversarial = refining(method)
    value, _, aux = loss_and_gradients(method, context, adversarial)
    net, y = context.nets["model"], np.asarray(context.batch.label)
    z_adv, z_clean = (np.asarray(net.train(x)[0], np.float64) for x in (adversarial, context.batch.image))

    def softmax(z):
        e = np.exp(z - z.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    memory = 0.7 * context.state.per_example[1] + 0.3 * (0.6 * softmax(z_clean / 3) + 0.4 * softmax(z_adv / 3))
    target = 0.4 * memory + 0.6 * np.eye(CLASSES)[y]
    np.testing.assert_allclose(aux.state.per_example[1], memory, rtol=1e-5)
    np.testing.assert_allclose(value, -(target * np.log(softmax(z_adv))).sum(-1).mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("base", "one_more"), [(PGDAT(ATTACK), "clean"), (TRADES(ATTACK), "adv"), (MART(ATTACK, beta=6.0), "none")]
)
def test_before_es_it_is_its_base_method(base, one_more):
    """So it is after es if the memory cannot move (alpha 1) and is one-hot."""
    method, plain = SGLR(base, one_more=one_more), base
    context = make_context(method, phase=(None, "plain"))
    adversarial, x_adv = method.perturb(context, KEY)[0], plain.perturb(context, KEY)[0]
    np.testing.assert_array_equal(adversarial, x_adv)
    value, gradients, aux = loss_and_gradients(method, context, adversarial)
    expected, expected_gradients, _ = loss_and_gradients(plain, context, adversarial)
    assert distance((value, gradients), (expected, expected_gradients)) < 1e-6
    assert aux.state is None
    assert (
        distance(method.init_state(context.batch.label, CLASSES).per_example[1], jnp.eye(CLASSES)[context.batch.label])
        == 0
    )
    frozen_memory = dataclasses.replace(method, alpha=1.0)
    value, gradients, _ = loss_and_gradients(
        frozen_memory, dataclasses.replace(context, phase=(None, "refine")), adversarial
    )
    assert distance((value, gradients), (expected, expected_gradients)) < 1e-6


def test_the_attack_is_always_against_the_true_label():
    method = SGLR(PGDAT(ATTACK, clean_statistics=False))
    plain, refine = (
        make_context(method, phase=(None, "plain")),
        make_context(method, phase=(None, "refine"), rows=((), soft_rows())),
    )
    np.testing.assert_array_equal(method.perturb(plain, KEY)[0], method.perturb(refine, KEY)[0])


def test_mart_keeps_the_true_label_outside_its_cross_entropy():
    """With S all on another class, k* and the weight 1 - p_y still refer to y."""
    method = SGLR(MART(ATTACK, beta=6.0), one_more="none", alpha=1.0)
    context = make_context(method)
    y = context.batch.label
    wrong = (y + 1) % CLASSES
    context = make_context(method, phase=(None, "refine"), rows=((), jnp.eye(CLASSES)[wrong]))
    adversarial = method.perturb(context, KEY)[0]
    value, _, _ = loss_and_gradients(method, context, adversarial)
    plain, _, _ = loss_and_gradients(MART(ATTACK, beta=6.0), context, adversarial)
    net = context.nets["model"]
    z_adv = net.train(adversarial)[0]
    change = losses.cross_entropy(z_adv, wrong) - losses.cross_entropy(z_adv, y)
    np.testing.assert_allclose(value - plain, jnp.mean(change), rtol=1e-4)


@pytest.mark.parametrize(
    ("base", "phase", "clean", "adversarial"),
    [
        (PGDAT(Inverted(), clean_statistics=False), "plain", 0.0, 0.1),
        (PGDAT(Inverted(), clean_statistics=False), "refine", 0.1, 0.09),
        (TRADES(Inverted(), order="clean-adv"), "plain", 0.09, 0.1),
        (TRADES(Inverted(), order="clean-adv"), "refine", 0.081, 0.19),
        (MART(Inverted()), "plain", 0.09, 0.1),
        (MART(Inverted()), "refine", 0.09, 0.1),
    ],
)
def test_order_of_forwards(base, phase, clean, adversarial):
    method = SGLR(base, one_more={"PGDAT": "clean", "TRADES": "adv", "MART": "none"}[type(base).__name__])
    context = make_context(method, phase=(None, phase))
    net, x = context.nets["model"], context.batch.image
    _, _, aux = loss_and_gradients(method, context, method.perturb(context, KEY)[0])
    old = (1 - clean - adversarial) * net.stats["BatchNorm_0"]["mean"]
    new = clean * first_layer_mean(net.params, x) + adversarial * first_layer_mean(net.params, 1 - x)
    np.testing.assert_allclose(aux.nets["model"].stats["BatchNorm_0"]["mean"], old + new, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("epochs", "first"), [(200, 90), (100, 45), (40, 18), (1, 0)])
def test_the_memory_is_used_from_epoch_es_on(epochs, first):
    """es is 90 of 200 epochs, counted from 1; epoch numbers here are counted from 0."""
    phases = [SGLR().phase(epoch, epochs) for epoch in range(epochs)]
    assert [phase[1] for phase in phases] == ["plain"] * (first - 1) + ["refine"] * (epochs - max(first - 1, 0))


def test_the_memory_after_an_epoch_by_hand():
    """Every row, and no padding: 22 examples in batches of 8 on four devices, two rows of padding on the last one."""
    run = Run(
        SGLR(PGDAT(Inverted(), clean_statistics=False)), devices=4, optimizer=optax.sgd(0.0), phase=(None, "refine")
    ).step(3)
    data, index, weight = run.data, *epoch_order(0, 0, 22, 8)
    variables = {"params": run.initial.params["model"], "batch_stats": run.initial.stats["model"]}
    expected = np.eye(CLASSES, dtype=np.float32)[np.asarray(data.label)]
    np.testing.assert_array_equal(run.initial.method.per_example[1], expected)
    for rows, mask in zip(index, weight, strict=True):
        x = jnp.asarray(data.image[rows] / 255.0, jnp.float32)

        def p(x, mask=mask):
            mode = TrainMode(jnp.asarray(mask))
            return jax.nn.softmax(ToyNet().apply(variables, x, train=mode, mutable=["batch_stats"])[0])

        real = mask > 0
        q = np.asarray(0.2 * p(x) + 0.8 * p(1 - x))
        expected[rows[real]] = 0.9 * expected[rows[real]] + 0.1 * q[real]
    assert (weight == 0).sum() == 2
    np.testing.assert_allclose(run.state.method.per_example[1], expected, rtol=1e-5)
    assert run.metrics["memory_agreement"] == 1.0


def test_one_device_equals_four_and_the_memory_survives_a_resume_on_another_number(tmp_path):
    one, four = (
        Run(SGLR(PGDAT(ATTACK, clean_statistics=False)), devices=devices, phase=(None, "refine")).step(4)
        for devices in (1, 4)
    )
    assert distance(params_stats_memory(one), params_stats_memory(four)) < 2e-6
    assert distance(one.state.method.per_example, one.initial.method.per_example) > 0.05
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, one.state)
    restored = checkpoints.restore(1, jax.eval_shape(lambda: one.initial))
    checkpoints.close()
    assert distance(restored.method.per_example, one.state.method.per_example) == 0.0
    one.step(2)
    four._state = parallel.replicate(restored, four.devices)
    four.step(2)
    assert distance(params_stats_memory(one), params_stats_memory(four)) < 2e-6
    for name in ("memory_entropy", "memory_agreement", "loss"):
        np.testing.assert_allclose(four.metrics[name], one.metrics[name], rtol=1e-5)


def params_stats_memory(run):
    return run.state.params, run.state.stats, run.state.method.per_example


@pytest.mark.parametrize(("field", "value"), [("base", DYNAT()), ("r", 1.5), ("alpha", -0.1), ("temperature", 0.0)])
def test_wrong_values_are_named(field, value):
    with pytest.raises(InputError, match=f"^{field} must be"):
        SGLR(**{field: value})
