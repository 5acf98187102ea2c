"""APGD against optima that are known, against its published schedule and against a literal reading of the algorithm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import losses, threat
from advjax.attacks import apgd
from advjax.attacks.apgd import APGD, checkpoints, periods
from advjax.attacks.engine.oracle import LOSSES, Example, Oracle, loss_for
from advjax.errors import InputError
from tests.attacks import toy

KEY = jax.random.key(0)


def test_published_checkpoints():
    assert checkpoints(100) == [0, 22, 41, 57, 70, 80, 87, 93, 99]


def test_dlr_by_hand():
    logits = jnp.asarray([[3.0, 1.0, 2.0, -1.0], [3.0, 1.0, 2.0, -1.0]])
    y = jnp.asarray([0, 2])
    np.testing.assert_allclose(losses.dlr(logits, y), [-(3 - 2) / (3 - 1), -(2 - 3) / (3 - 1)])
    target = jnp.asarray([1, 3])
    expected = [-(3 - 1) / (3 - (1 - 1) / 2), -(2 + 1) / (3 - (1 - 1) / 2)]
    np.testing.assert_allclose(losses.dlr_targeted(logits, y, target), expected)
    np.testing.assert_allclose(LOSSES["margin_targeted"](logits, y, target), [1 - 3, -1 - 2])


def test_losses_for_few_classes():
    assert loss_for("dlr", 3) == "dlr" and loss_for("dlr", 2) == "margin"
    assert loss_for("dlr_targeted", 4) == "dlr_targeted" and loss_for("dlr_targeted", 3) == "margin_targeted"
    assert loss_for("ce", 2) == "ce"


def linear_optimum(w: np.ndarray, x: np.ndarray, norm: str, eps: float) -> np.ndarray:
    """max w.(x' - x) over the ball, the box being out of reach for l_inf and l_2; l_1 by filling rooms greedily."""
    if norm == "linf":
        return np.full(len(x), eps * np.abs(w).sum())
    if norm == "l2":
        return np.full(len(x), eps * np.sqrt((w**2).sum()))
    gains = []
    for image in x:
        room = np.where(w > 0, 1 - image, image)
        left, gain = eps, 0.0
        for i in np.argsort(-np.abs(w)):
            move = min(room[i], left)
            gain, left = gain + move * abs(w[i]), left - move
        gains.append(gain)
    return np.asarray(gains)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.2), ("l1", 3.0)])
def test_reaches_the_optimum_of_a_linear_network(norm, eps):
    rng = np.random.default_rng(0)
    d = 48
    weights = rng.normal(size=(d, 2))
    x = rng.uniform(0.4, 0.6, (5, 4, 4, 3)).astype(np.float32)
    y = np.zeros(5, np.int32)
    f = toy.linear(weights)
    result = apgd(f, KEY, x, y, norm=norm, eps=eps)
    w = weights[:, 1] - weights[:, 0]
    best = np.asarray(result.best, np.float64).reshape(5, -1)
    gained = (best - x.reshape(5, -1)) @ w
    optimum = linear_optimum(w, x.reshape(5, -1).astype(np.float64), norm, eps)
    np.testing.assert_allclose(gained, optimum, rtol=1e-2 if norm == "l1" else 1e-4)
    toy.check_inside(result.best, x, norm, eps)
    toy.check_inside(result.x_adv, x, norm, eps)
    np.testing.assert_array_equal(result.success, np.argmax(f(result.x_adv), -1) != y)


def literal_run(loss_and_gradient, start, x, eps, steps):
    """One l_inf run as the algorithm's text says, one example, with the losses kept in a list; -> the best losses."""

    def project(z):
        return np.clip(np.clip(z, x - eps, x + eps), 0, 1)

    point = previous = best = start
    value, gradient = loss_and_gradient(point)
    best_value, best_gradient = value, gradient
    step, halved_before, best_at_check = 2 * eps, True, value
    values, trace = [0.0], []
    period, less, least = periods(steps)
    last_check = 0
    for i in range(steps):
        a = 1.0 if i == 0 else 0.75
        z = project(point + step * np.sign(gradient))
        new = project(point + a * (z - point) + (1 - a) * (point - previous))
        previous, point = point, new
        value, gradient = loss_and_gradient(point)
        values.append(value)
        if value > best_value:
            best, best_value, best_gradient = point, value, gradient
        if i + 1 - last_check == period:
            rises = sum(values[j] > values[j - 1] for j in range(last_check + 1, i + 2))
            halve = rises <= 0.75 * period or (not halved_before and best_value <= best_at_check)
            halved_before, best_at_check, last_check = halve, best_value, i + 1
            period = max(period - less, least)
            if halve:
                step, point, gradient = step / 2, best, best_gradient
        trace.append((best_value, step))
    return trace


def test_follows_the_algorithm_step_by_step():
    f, x, y = toy.labelled(6, wrong=0)
    eps, steps = 0.15, 60
    attack = APGD("linf", "ce", steps)
    n = len(x)
    e = Example(*map(jnp.asarray, (x, y, np.full(n, eps, np.float32), np.arange(n), np.zeros(n, np.int32), y)))
    state = attack.begin(e, KEY)
    start = np.asarray(state.best)
    step = jax.jit(lambda state: attack(0, state, e, Oracle(jax.tree_util.Partial(f)), KEY))
    state = step(state)
    ours = []
    for _ in range(steps):
        state = step(state)
        ours.append((np.asarray(state.best_value), np.asarray(state.step)))
    assert bool(state.done.all())

    value_and_grad = jax.jit(
        jax.value_and_grad(lambda image, label: losses.cross_entropy(f(image[None]), label[None])[0])
    )
    for i in range(n):
        reference = literal_run(
            lambda z, i=i: [np.asarray(v) for v in value_and_grad(jnp.asarray(z), jnp.asarray(y[i]))],
            start[i], x[i], np.float32(eps), steps,
        )  # fmt: skip
        np.testing.assert_allclose([v[i] for v, _ in ours], [v for v, _ in reference], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose([s[i] for _, s in ours], [s for _, s in reference], rtol=1e-6)
    # The step sizes must have moved, or the comparison says nothing about the checkpoints.
    assert np.all(ours[-1][1] < 2 * eps)


def test_a_look_halves_the_step_for_either_reason():
    """Too few rises, or no new best since the last look, unless that look halved too."""
    attack, ones, x = APGD("linf"), np.ones(5), toy.images(5)
    e = Example(*map(jnp.asarray, (x, ones, ones, np.arange(5), np.zeros(5, np.int32), ones)))
    state = attack.begin(e, KEY)._replace(
        step=jnp.ones(5), check=jnp.full(5, 20), period=jnp.full(5, 20), rises=jnp.asarray([15, 16, 16, 16, 16]),
        halved=jnp.asarray([True, True, False, False, True]),
        best_value=jnp.asarray([2.0, 1.0, 1.0, 2.0, 2.0]), best_at_check=jnp.ones(5),
    )  # fmt: skip
    new = attack.adapt_step(state, e, ones, jnp.full(5, 20), 0)
    np.testing.assert_array_equal(new.step, [0.5, 1, 0.5, 1, 1])
    np.testing.assert_array_equal(new.halved, [True, False, True, False, False])
    np.testing.assert_array_equal(new.check, 20 + 17)
    np.testing.assert_array_equal(new.best_at_check, state.best_value)
    early = attack.adapt_step(state, e, ones, jnp.full(5, 19), 0)
    np.testing.assert_array_equal(early.step, 1)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_best_loss_never_falls_and_is_the_loss_of_the_best_point(norm):
    f, x, y = toy.labelled(8)
    attack = APGD(norm, "ce", 30)
    n, eps = len(x), {"linf": 0.1, "l2": 0.5, "l1": 3.0}[norm]
    e = Example(*map(jnp.asarray, (x, y, np.full(n, eps, np.float32), np.arange(n), np.zeros(n, np.int32), y)))
    step = jax.jit(lambda state: attack(0, state, e, Oracle(jax.tree_util.Partial(f)), KEY))
    state = attack.begin(e, KEY)
    stage_starts = np.cumsum([0] + [steps + 1 for _, steps in attack.stages])
    for tick in range(attack.ticks):
        before = state.best_value
        state = step(state)
        if tick not in stage_starts:
            assert np.all(state.best_value >= before)
        np.testing.assert_allclose(state.best_value, losses.cross_entropy(f(state.best), y), rtol=1e-4, atol=1e-5)


def literal_l1_run(loss_and_gradient, wrong, noise, x, eps, steps):
    """The l_1 run as its formulas read, on one image; -> every best loss and step size, the last success."""
    d, trace, success = x.size, [], None
    project = jax.jit(lambda z, radius: threat.project_l1_box(z[None], x[None], radius)[0])

    def l0(z):
        return np.sum(z != x)

    early = int(np.ceil(0.3 * steps))
    start = x + noise
    for multiple, count in ((3, early), (2, early), (1, steps - 2 * early)):
        radius = step = np.float32(multiple * eps)
        point = best = np.asarray(project(start, radius))
        value, gradient = loss_and_gradient(point)
        best_value, best_gradient = value, gradient
        sparsity = l0(best)
        share = sparsity / (1.5 * d)
        success = point if multiple == 1 and wrong(point) else success
        trace.append((best_value, step))
        for i in range(1, count + 1):
            size = np.sort(np.abs(gradient).ravel())
            moving = np.abs(gradient) >= size[int(np.clip((1 - share) * d, 0, d - 1))]
            direction = np.where(moving, np.sign(gradient), 0)
            point = np.asarray(project(point + step * direction / np.abs(direction).sum(), radius))
            value, gradient = loss_and_gradient(point)
            success = point if multiple == 1 and wrong(point) else success
            if value > best_value:
                best, best_value, best_gradient = point, value, gradient
            if i % max(int(0.04 * count), 1) == 0:
                ratio, sparsity = l0(best) / sparsity, l0(best)
                share = sparsity / (1.5 * d)
                if ratio < 0.95:
                    step, point, gradient = radius, best, best_gradient
                else:
                    step = max(step / 1.5, radius / 10)
            trace.append((best_value, step))
        start = best
    return trace, success


def test_l1_follows_the_algorithm_step_by_step():
    f, x, y = toy.labelled(4, wrong=0)
    eps, steps, n = 0.8, 20, 4
    attack = APGD("l1", "ce", steps)
    e = Example(*map(jnp.asarray, (x, y, np.full(n, eps, np.float32), np.arange(n), np.zeros(n, np.int32), y)))
    state = attack.begin(e, KEY)
    noise = np.asarray(state.best) - x
    step = jax.jit(lambda state: attack(0, state, e, Oracle(jax.tree_util.Partial(f)), KEY))
    ours = []
    for _ in range(attack.ticks):
        state = step(state)
        ours.append((np.asarray(state.best_value), np.asarray(state.step)))
    value_and_grad = jax.jit(
        jax.value_and_grad(lambda image, label: losses.cross_entropy(f(image[None]), label[None])[0])
    )
    for i in range(n):
        trace, success = literal_l1_run(
            lambda z, i=i: [np.asarray(v) for v in value_and_grad(jnp.asarray(z), jnp.asarray(y[i]))],
            lambda z, i=i: np.argmax(f(z[None])) != y[i],
            noise[i], x[i], eps, steps,
        )  # fmt: skip
        np.testing.assert_allclose([v[i] for v, _ in ours], [v for v, _ in trace], rtol=2e-3, atol=1e-4)
        np.testing.assert_allclose([s[i] for _, s in ours], [s for _, s in trace], rtol=1e-5)
        assert bool(state.success[i]) == (success is not None)
        np.testing.assert_allclose(state.x_adv[i], x[i] if success is None else success, atol=1e-3)
    assert len({s for _, step in ours for s in step.tolist()}) > 4


def test_l1_comes_in_from_three_radii():
    assert APGD("l1", steps=100).stages == ((3.0, 30), (2.0, 30), (1.0, 40))
    f, x, y = toy.labelled(4, wrong=0)
    attack = APGD("l1")
    e = Example(*map(jnp.asarray, (x, y, np.full(4, 2.0, np.float32), np.arange(4), np.zeros(4, np.int32), y)))
    state = attack.begin(e, KEY)
    step = jax.jit(lambda state: attack(0, state, e, Oracle(jax.tree_util.Partial(f)), KEY))
    reach = []
    for _ in range(attack.ticks):
        state = step(state)
        reach.append(float(jnp.max(threat.norm(state.x - e.x, "l1"))))
    assert max(reach[:31]) == pytest.approx(6.0, rel=1e-4)
    assert max(reach[31:62]) == pytest.approx(4.0, rel=1e-4)
    assert max(reach[62:]) == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_an_example_does_not_depend_on_its_batch(norm):
    f, x, y = toy.labelled(9)
    ids = np.arange(9) + 100
    eps = {"linf": 0.1, "l2": 0.5, "l1": 3.0}[norm]
    whole = apgd(f, KEY, x, y, norm=norm, eps=eps, steps=12, ids=ids)
    order = np.asarray([7, 2, 5])
    part = apgd(f, KEY, x[order], y[order], norm=norm, eps=eps, steps=12, ids=ids[order])
    np.testing.assert_allclose(part.best, whole.best[order], atol=1e-5)
    other = apgd(f, KEY, x[order], y[order], norm=norm, eps=eps, steps=12, ids=order)
    assert not np.array_equal(other.best, part.best)


def test_the_same_inside_jit():
    f, x, y = toy.labelled(4)

    def run(x):
        return apgd(f, KEY, x, y, norm="linf", eps=0.1, steps=10)

    for inside, alone in zip(jax.jit(run)(x), run(x), strict=True):
        np.testing.assert_allclose(inside, alone, atol=1e-6)


def test_objectives_that_are_refused():
    f, x, y = toy.labelled(2)
    with pytest.raises(InputError, match="target"):
        apgd(f, KEY, x, y, norm="linf", eps=0.1, objective="dlr_targeted")
    with pytest.raises(InputError, match=r"objective \(of APGD\).*dlr"):
        apgd(f, KEY, x, y, norm="linf", eps=0.1, objective="drl")
    with pytest.raises(InputError, match=r"unknown objective \(of APGD\) \['ce'\]"):
        apgd(f, KEY, x, y, norm="linf", eps=0.1, objective=["ce"])
    with pytest.raises(InputError, match="one value per example"):
        apgd(f, KEY, x, y, norm="linf", eps=0.1, objective=lambda logits, y: jnp.mean(logits))


def test_an_objective_of_ones_own_and_a_radius_as_people_write_it():
    f, x, y = toy.labelled(4, wrong=0)
    named = apgd(f, KEY, x, y, norm="linf", eps=8 / 255, objective="margin", steps=3)
    own = apgd(f, KEY, x, y, norm="linf", eps="8/255", objective=losses.margin, steps=3)
    for one, other in zip(named, own, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_target_overtakes_the_label():
    f, x, y = toy.labelled(8, wrong=0)
    target = (y + 3) % 10
    result = apgd(f, KEY, x, y, norm="l2", eps=2.0, objective="margin_targeted", target=target, steps=40)
    logits, row = np.asarray(f(result.best)), np.arange(8)
    np.testing.assert_allclose(result.loss, logits[row, target] - logits[row, y], atol=1e-4)
    assert np.mean(result.loss > 0) > 0.8
