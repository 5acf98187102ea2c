"""DYNAT: its control is PGD-AT, the order of its forwards, which gradient reaches whom, devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax.errors import InputError
from advjax.methods import DYNAT, PGDAT, Natural, TrainingAttack
from tests.helpers import Run, distance
from tests.methods.by_hand import Inverted, first_batch, first_layer_mean, loss_and_gradients, make_context

ATTACK = TrainingAttack(eps=0.1, step_size=0.05, steps=3, start="normal")


def test_one_device_equals_four():
    # 22 examples in batches of 8: the third batch has two rows of padding.
    one, four = Run(DYNAT(ATTACK)).step(4), Run(DYNAT(ATTACK), devices=4).step(4)
    assert distance((one.state.params, one.state.stats), (four.state.params, four.state.stats)) < 2e-6
    for name in ("target", "guide"):
        assert distance(one.state.params[name], one.initial.params[name]) > 1e-3
    for name, value in one.metrics.items():
        np.testing.assert_allclose(four.metrics[name], value, rtol=1e-5)


def test_control_is_pgd_at_and_its_guide_natural_training():
    control = Run(DYNAT(ATTACK, labels="true", clean_statistics=False)).step(3)
    at = Run(PGDAT(ATTACK, clean_statistics=False)).step(3)
    for part in ("params", "stats", "opt_state"):
        assert distance(getattr(control.state, part)["target"], getattr(at.state, part)["model"]) < 1e-7
    guide = {"params": control.initial.params["guide"], "batch_stats": control.initial.stats["guide"]}
    natural = Run(Natural(), given={"model": guide}).step(3)
    assert distance(control.state.params["guide"], natural.state.params["model"]) < 1e-7


def test_order_of_forwards():
    """Target: 0.81 old + 0.09 adversarial + 0.10 clean, guide: 0.9 old + 0.1 clean, once."""
    run = Run(DYNAT(Inverted()), optimizer=optax.sgd(0.0)).step()
    x, params = first_batch(run), run.initial.params
    means = {name: stats["BatchNorm_0"]["mean"] for name, stats in run.state.stats.items()}
    target = 0.09 * first_layer_mean(params["target"], 1 - x) + 0.1 * first_layer_mean(params["target"], x)
    np.testing.assert_allclose(means["target"], target, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(means["guide"], 0.1 * first_layer_mean(params["guide"], x), rtol=1e-4, atol=1e-7)
    variances = {name: stats["BatchNorm_0"]["var"] for name, stats in run.state.stats.items()}
    for variance, old in ((variances["target"], 0.81), (variances["guide"], 0.9)):
        assert jnp.all(variance > old)  # the initial variance is 1


def test_no_gradient_crosses_and_the_target_never_sees_the_true_label():
    method = DYNAT(ATTACK)
    context = make_context(method)
    adversarial = method.perturb(context, jax.random.key(1))[0]
    _, before, _ = loss_and_gradients(method, context, adversarial)
    relabelled = dataclasses.replace(context, batch=context.batch._replace(label=(context.batch.label + 1) % 3))
    _, after, _ = loss_and_gradients(method, relabelled, adversarial)
    assert distance(before["target"], after["target"]) == 0.0
    assert distance(before["guide"], after["guide"]) > 1e-3
    other_guide = context.with_params({"guide": jax.tree.map(lambda leaf: 1.1 * leaf, context.nets["guide"].params)})
    _, after, _ = loss_and_gradients(method, other_guide, adversarial)
    assert distance(before["target"], after["target"]) == 0.0
    other_target = context.with_params({"target": jax.tree.map(lambda leaf: 1.1 * leaf, context.nets["target"].params)})
    _, after, _ = loss_and_gradients(method, other_target, adversarial)
    assert distance(before["guide"], after["guide"]) == 0.0


def test_beta_scales_the_target_alone():
    context = make_context(DYNAT())
    adversarial = DYNAT(ATTACK).perturb(context, jax.random.key(1))[0]
    _, full, _ = loss_and_gradients(DYNAT(), context, adversarial)
    _, fifth, _ = loss_and_gradients(DYNAT(beta=0.2), context, adversarial)
    assert distance(full["guide"], fifth["guide"]) == 0.0
    assert distance(jax.tree.map(lambda g: 0.2 * g, full["target"]), fifth["target"]) < 1e-7


def test_the_inner_objectives_use_label_and_own_prediction():
    """The attack on labels follows the guide; the one on the KL does not look at it."""
    context = make_context(DYNAT())
    flipped = jax.tree.map(lambda leaf: -leaf, context.nets["guide"].params["Linear_0"])
    other = context.with_params({"guide": {**context.nets["guide"].params, "Linear_0": flipped}})
    for inner, follows in (("ce", True), ("kl", False)):
        method = DYNAT(ATTACK, inner=inner)
        (x_adv, label), (x_other, label_other) = (method.perturb(c, jax.random.key(1))[0] for c in (context, other))
        assert jnp.any(label != label_other)
        assert bool(jnp.any(x_adv != x_other)) == follows


def test_agreement_of_the_guides_labels_is_logged():
    context = make_context(DYNAT())
    adversarial = DYNAT(ATTACK).perturb(context, jax.random.key(1))[0]
    _, _, aux = loss_and_gradients(DYNAT(), context, adversarial)
    agree, count = aux.metrics["label_agreement"]
    assert (float(agree), float(count)) == (float(jnp.sum(adversarial[1] == context.batch.label)), 8.0)


def test_the_report_is_about_the_target():
    assert DYNAT().evaluated[0] == "target"


@pytest.mark.parametrize(("field", "value"), [("inner", "cw"), ("labels", "soft"), ("beta", -1.0)])
def test_wrong_values_are_named(field, value):
    with pytest.raises(InputError, match=f"^{field} must be"):
        DYNAT(**{field: value})
