"""Learning rates by epoch as the papers give them, SGD and AdamW as PyTorch runs them."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from advjax.errors import InputError
from advjax.training.schedules import adamw, cycle, learning_rate, sgd


def by_epoch(schedule, epochs, steps):
    """The rate at the first step of every epoch, counted from 1."""
    return {epoch + 1: float(schedule(epoch * steps)) for epoch in range(epochs)}


def test_piecewise_drops_at_the_start_of_an_epoch():
    rates = by_epoch(learning_rate("piecewise", 0.1, 200, 7), 200, 7)
    assert rates[100] == pytest.approx(0.1)
    assert rates[101] == pytest.approx(0.01)
    assert rates[150] == pytest.approx(0.01)
    assert rates[151] == pytest.approx(0.001)


def test_dynat_recipe():
    """0.02 for epoch 1, 0.1 for 2-75, 0.01 for 76-90, 0.001 for 91-100."""
    schedule = learning_rate("piecewise", 0.1, 100, 5, milestones=(0.75, 0.9), warmup=0.01, warmup_factor=0.2)
    rates = by_epoch(schedule, 100, 5)
    expected = {1: 0.02, 2: 0.1, 75: 0.1, 76: 0.01, 90: 0.01, 91: 0.001, 100: 0.001}
    assert {epoch: rates[epoch] for epoch in expected} == pytest.approx(expected)


def test_schedules_rescale_with_the_epochs():
    rates = by_epoch(learning_rate("piecewise", 0.1, 30, 4), 30, 4)
    assert [rates[e] for e in (15, 16, 22, 23)] == pytest.approx([0.1, 0.01, 0.01, 0.001])


def test_linear_warm_up_and_factors_per_milestone():
    schedule = learning_rate("piecewise", 1.0, 10, 10, milestones=(0.5, 0.8), factor=(0.5, 0.1), warmup=0.2)
    assert [float(schedule(s)) for s in (0, 10, 20, 49, 50, 80)] == pytest.approx([0, 0.5, 1, 1, 0.5, 0.05])


def test_cyclic_cosine_onecycle_constant():
    cyclic = learning_rate("cyclic", 0.2, 10, 10)
    assert [float(cyclic(s)) for s in (0, 25, 50, 75, 100)] == pytest.approx([0, 0.1, 0.2, 0.1, 0])
    cosine = learning_rate("cosine", 0.2, 10, 10)
    assert [float(cosine(s)) for s in (0, 50, 100)] == pytest.approx([0.2, 0.1, 0], abs=1e-8)
    onecycle = learning_rate("onecycle", 0.2, 10, 10, peak_at=0.3)
    assert max(range(100), key=lambda s: float(onecycle(s))) == 30
    assert float(learning_rate("constant", 0.2, 10, 10)(77)) == pytest.approx(0.2)


def test_piecewise_linear_is_the_recipe_of_the_union_of_norms():
    """0, 0.1, 0.005, 0 at epochs 0, 20, 40, 50."""
    schedule = learning_rate("piecewise_linear", 0.1, 50, 10, milestones=(0.4, 0.8, 1.0), factor=(1.0, 0.05, 0.0))
    rates = [float(schedule(10 * epoch)) for epoch in (0, 10, 20, 30, 40, 45, 50)]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.0525, 0.005, 0.0025, 0], abs=1e-8)


def test_a_momentum_that_cycles_is_read_by_the_step():
    """PyTorch's CyclicLR by its default: the momentum falls while the rate rises, and both go back."""
    momentum = cycle(0.9, 0.8, 4)
    optimizer, trace = sgd(1.0, momentum=momentum, weight_decay=0.0), 0.0
    state, params = optimizer.init(jnp.zeros(())), jnp.zeros(())
    for step in range(4):
        update, state = optimizer.update(jnp.ones(()), state, params)
        trace = 1.0 + [0.9, 0.85, 0.8, 0.85][step] * trace
        assert -float(update) == pytest.approx(trace)


def test_the_rate_of_msd_is_one_epoch_ahead():
    """lr(t) with t = 1..51: the first step has 0.005, the last epoch 0."""
    options = {"milestones": (0.4, 0.8, 1.0), "factor": (1.0, 0.05, 0.0), "first_epoch": 1}
    rate = learning_rate("piecewise_linear", 0.1, 50, 10, **options)
    by_step = {0: 0.005, 5: 0.0075, 190: 0.1, 390: 0.005, 490: 0.0, 499: 0.0}
    assert {step: float(rate(step)) for step in by_step} == pytest.approx(by_step, abs=1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "step"}, "^name must be a schedule"),
        ({"name": "piecewise", "milestones": (0.8, 0.5)}, "^milestones must"),
        ({"name": "piecewise", "milestones": (100,)}, "^milestones must"),
        ({"name": "piecewise", "factor": (0.1,)}, "^factor must"),
        ({"name": "cosine", "warmup": 5}, "^warmup must"),
        ({"name": "cyclic", "peak_at": 1.0}, "^peak_at must"),
    ],
)
def test_bad_schedules(options, message):
    with pytest.raises(InputError, match=message):
        learning_rate(options.pop("name"), 0.1, 10, 10, **options)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_that_of_pytorch(nesterov):
    """buf = 0.9 buf + (g + wd w); w -= lr buf (Nesterov: lr (g + wd w + 0.9 buf)), for three steps by hand."""
    optimizer = sgd(0.1, momentum=0.9, weight_decay=0.01, nesterov=nesterov)
    w, buffer, value = 2.0, 0.0, jnp.asarray(2.0)
    state = optimizer.init(value)
    for gradient in (1.0, -0.5, 0.3):
        decayed = gradient + 0.01 * w
        buffer = 0.9 * buffer + decayed
        w -= 0.1 * (decayed + 0.9 * buffer if nesterov else buffer)
        updates, state = optimizer.update(jnp.asarray(gradient), state, value)
        value = optax.apply_updates(value, updates)
    np.testing.assert_allclose(value, w, rtol=1e-6)


def test_adamw_is_that_of_pytorch():
    """By hand from PyTorch's page: w <- w - lr decay w - lr m/(1 - b1^t) / (sqrt(v/(1 - b2^t)) + 1e-8)."""
    optimizer = adamw(lambda step: 0.1 / (1 + step), momentum=0.8, beta2=0.95, weight_decay=0.3)
    params = {"kernel": jnp.full((1, 1), 2.0), "bias": jnp.full(1, 2.0)}
    state, m, v, kernel, bias = optimizer.init(params), 0.0, 0.0, 2.0, 2.0
    for t, gradient in enumerate((0.5, -1.5, 0.25), start=1):
        updates, state = optimizer.update(dict.fromkeys(params, jnp.full(1, gradient)), state, params)
        params = optax.apply_updates(params, updates)
        m, v = 0.8 * m + 0.2 * gradient, 0.95 * v + 0.05 * gradient**2
        rate, step = 0.1 / t, (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
        kernel, bias = kernel - rate * 0.3 * kernel - rate * step, bias - rate * step
        np.testing.assert_allclose([params["kernel"].item(), params["bias"].item()], [kernel, bias], rtol=1e-6)


def test_decay_of_kernels_only_and_clipping():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zeros = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    for decay, bias in (("all", -0.05), ("kernels", 0.0)):
        optimizer = sgd(0.1, momentum=0.0, weight_decay=0.5, decay=decay)
        updates, _ = optimizer.update(zeros, optimizer.init(params), params)
        np.testing.assert_allclose(updates["kernel"], -0.05)
        np.testing.assert_allclose(updates["bias"], bias)
    clipped = sgd(1.0, momentum=0.0, weight_decay=0.0, clip_norm=1.0)
    updates, _ = clipped.update({"kernel": jnp.full((2, 2), 5.0), "bias": jnp.zeros(2)}, clipped.init(params), params)
    np.testing.assert_allclose(optax.tree.norm(updates), 1.0, rtol=1e-6)
    with pytest.raises(InputError, match=r"^decay must"):
        sgd(0.1, decay="some")


def falls(peak, epochs, steps_per_epoch):
    return lambda step: peak / (1 + step / (epochs * steps_per_epoch))


def breaks(peak, epochs, steps_per_epoch):
    raise RuntimeError("two\nlines")


def number(peak, epochs, steps_per_epoch):
    return peak


def test_a_schedule_from_outside():
    rate = learning_rate(f"{__name__}:falls", 0.2, 5, 4)
    assert (rate(0), rate(20)) == (0.2, 0.1)
    for name, message in {
        "breaks": r"schedule .*:breaks failed: RuntimeError: two lines",
        "number": r"^name must give a function of the step, .*:number gives 0\.2",
        "fals": "did you mean falls",
    }.items():
        with pytest.raises(InputError, match=message):
            learning_rate(f"{__name__}:{name}", 0.2, 5, 4)
