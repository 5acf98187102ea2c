"""Geometry against slow float64 references, with and without jit."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from advjax import threat
from advjax.errors import InputError

settings.register_profile("geometry", deadline=None, max_examples=25)
settings.load_profile("geometry")

D = 12
NORMS = ("linf", "l2", "l1")
vectors = hnp.arrays(np.float32, (3, D), elements=st.floats(-4, 4, width=32))
images = hnp.arrays(np.float32, (3, D), elements=st.floats(0, 1, width=32))
radii = st.floats(2.0**-6, 8, width=32)


def size(delta, norm):
    return np.linalg.norm(np.asarray(delta, np.float64), {"linf": np.inf, "l2": 2, "l1": 1}[norm], axis=-1)


def soft_threshold(y, eps):
    """Projection to the l_1 ball by bisection in float64."""
    a = np.abs(y.astype(np.float64))
    if a.sum() <= eps:
        return y.astype(np.float64)
    low, high = 0.0, a.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(a - middle, 0).sum() > eps else (low, middle)
    return np.sign(y) * np.maximum(a - high, 0)


def soft_threshold_box(y, x, eps):
    """Projection of x + y to the l_1 ball around x and the box, as a move, by bisection in float64."""
    a, room = np.abs(y.astype(np.float64)), np.where(y > 0, 1 - x.astype(np.float64), x)
    low, high = 0.0, a.max()
    if np.minimum(a, room).sum() <= eps:
        return np.sign(y) * np.minimum(a, room)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(a - middle, 0, room).sum() > eps else (low, middle)
    return np.sign(y) * np.clip(a - high, 0, room)


@pytest.mark.parametrize("norm", NORMS)
@given(delta=vectors, eps=radii)
def test_projection_to_the_ball(norm, delta, eps):
    projected = np.asarray(threat.project_ball(jnp.asarray(delta), norm, eps))
    jitted = jax.jit(threat.project_ball, static_argnums=1)(jnp.asarray(delta), norm, eps)
    np.testing.assert_allclose(jitted, projected, atol=2e-6)
    assert (size(projected, norm) <= eps * (1 + 1e-5)).all()
    if norm == "linf":
        expected = np.clip(delta.astype(np.float64), -eps, eps)
    elif norm == "l2":
        length = size(delta, "l2")[:, None]
        expected = delta * np.where(length > eps, eps / np.maximum(length, 1e-30), 1.0)
    else:
        expected = np.stack([soft_threshold(row, eps) for row in delta])
    np.testing.assert_allclose(projected, expected, atol=1e-5)


@given(x=images, y=vectors, eps=radii)
def test_projection_to_the_l1_ball_and_the_box(x, y, eps):
    projected = np.asarray(threat.project_l1_box(jnp.asarray(x + y), jnp.asarray(x), eps))
    assert projected.min() >= 0
    assert projected.max() <= 1
    assert (size(projected.astype(np.float64) - x, "l1") <= eps * (1 + 1e-5) + 1e-6).all()
    move = (x + y).astype(np.float32) - x
    expected = np.stack([soft_threshold_box(row, image, eps) for row, image in zip(move, x, strict=True)])
    np.testing.assert_allclose(projected - x, expected, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@given(x=images, y=vectors, eps=radii)
def test_project_ends_in_ball_and_box(norm, x, y, eps):
    projected = np.asarray(threat.project(jnp.asarray(x + y), jnp.asarray(x), norm, eps))
    assert projected.min() >= 0
    assert projected.max() <= 1
    assert (size(projected.astype(np.float64) - x, norm) <= eps * (1 + 1e-5) + 1e-6).all()
    inside = np.asarray(threat.project(jnp.asarray(projected), jnp.asarray(x), norm, eps))
    np.testing.assert_allclose(inside, projected, atol=1e-6)


def test_l1_projection_is_tight_at_image_size():
    """float32 sums over 3,072 coordinates at radius 12: within 1e-5 of the radius, checked in float64."""
    y = jax.random.normal(jax.random.key(0), (4, 3072)) * jnp.array([[0.01], [0.1], [1.0], [30.0]])
    lengths = size(threat.project_ball(y, "l1", 12.0), "l1")
    np.testing.assert_allclose(lengths, 12.0, rtol=1e-5)


class Transformed(chex.TestCase):
    """Geometry is the same under the transformations that attacks put around it."""

    @chex.variants(with_jit=True, without_jit=True, without_device=True, with_pmap=True)
    @parameterized.parameters(*NORMS)
    def test_projections_and_steps(self, norm):
        x, y = np.random.default_rng(0).uniform(0, 1, (2, 3, 2, 2, 1)).astype(np.float32)

        def geometry(x, y):
            eps = jnp.array([0.1, 0.5, 1.0])
            step = threat.steepest_step(y - x, norm)
            return threat.project(y, x, norm, eps), threat.project_l1_box(y, x, eps), step, threat.norm(step, norm)

        projected, boxed, step, size = self.variant(geometry)(x, y)
        chex.assert_equal_shape([projected, boxed, step, x])
        chex.assert_trees_all_close((projected, boxed, step, size), geometry(jnp.asarray(x), jnp.asarray(y)), atol=1e-6)
        chex.assert_trees_all_close(size, np.ones(3, np.float32), rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_radius_per_example(norm):
    delta = jax.random.normal(jax.random.key(1), (3, 4, 4, 1)) * 10
    eps = jnp.array([0.0, 0.5, 1.5])
    together = threat.project_ball(delta, norm, eps)
    for i in range(3):
        alone = threat.project_ball(delta[i : i + 1], norm, float(eps[i]))
        np.testing.assert_allclose(together[i], alone[0], atol=1e-6)
    np.testing.assert_allclose(threat.norm(together, norm), eps, rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@given(gradient=vectors)
def test_steepest_step_attains_the_dual_norm(norm, gradient):
    """The step of unit norm whose product with the gradient is the gradient's dual norm."""
    step = np.asarray(threat.steepest_step(jnp.asarray(gradient), norm), np.float64)
    dual = {"linf": "l1", "l2": "l2", "l1": "linf"}[norm]
    np.testing.assert_allclose((step * gradient).sum(-1), size(gradient, dual), rtol=1e-4, atol=1e-5)
    nonzero = size(gradient, "linf") > 1e-6
    np.testing.assert_allclose(size(step, norm)[nonzero], 1.0, rtol=1e-4)


def test_sparse_l1_step():
    gradient = jnp.array([[0.1, -3.0, 2.0, -1.0], [1.0, 2.0, 3.0, 4.0]])
    np.testing.assert_allclose(threat.steepest_step(gradient, "l1", k=2)[0], [0, -0.5, 0.5, 0])
    per_example = threat.steepest_step(gradient, "l1", k=jnp.array([1, 4]))
    np.testing.assert_allclose(per_example, [[0, -1, 0, 0], [0.25] * 4])
    # coordinates that the gradient pushes against their bound stay out
    at_bound = jnp.array([[0.5, 0.0, 1.0, 0.5], [0.5, 0.5, 0.5, 0.99]])
    np.testing.assert_allclose(threat.steepest_step(gradient, "l1", x=at_bound)[0], [0, 0, 0, -1])
    np.testing.assert_allclose(threat.steepest_step(gradient, "l1", x=at_bound, gap=0.05)[1], [0, 0, 1, 0])


@pytest.mark.parametrize("norm", NORMS)
def test_start_lies_in_ball_and_box_and_depends_on_the_id_alone(norm):
    x = jax.random.uniform(jax.random.key(2), (6, 4, 4, 1))
    ids, key = jnp.arange(6) + 10, jax.random.key(3)
    start = threat.random_start(key, x, ids, norm, 0.5)
    assert ((start >= 0) & (start <= 1)).all()
    assert (threat.norm(start - x, norm) <= 0.5 + 1e-6).all()
    assert not jnp.allclose(start, x)
    order = jnp.array([4, 1])
    np.testing.assert_array_equal(threat.random_start(key, x[order], ids[order], norm, 0.5), start[order])


@pytest.mark.parametrize("norm", NORMS)
def test_uniform_start_fills_the_ball_evenly(norm):
    """P(norm < r) = r^d for a point uniform in the unit ball of d dimensions."""
    x = jnp.full((4000, 2, 2, 1), 0.5)
    start = threat.random_start(jax.random.key(4), x, jnp.arange(4000), norm, 0.4, "uniform_unclipped")
    radius = np.asarray(threat.norm(start - x, norm)) / 0.4
    for r in (0.5, 0.8, 0.95):
        assert abs((radius < r).mean() - r**4) < 0.03
    np.testing.assert_allclose(np.asarray(start - x).mean(0), 0, atol=0.02)


def test_other_starts():
    x, ids, key = jnp.zeros((500, 2, 2, 1)), jnp.arange(500), jax.random.key(5)
    np.testing.assert_array_equal(threat.random_start(key, x, ids, "linf", 0.1, "none"), x)
    normal = threat.random_start(key, x, ids, "linf", 0.1, "normal")
    np.testing.assert_allclose(np.std(normal), 0.001, rtol=0.1)
    assert threat.random_start(key, x, ids, "linf", 0.1, "uniform_unclipped").min() < 0
    assert threat.random_start(key, x, ids, "linf", 0.1, "uniform").min() == 0
    with pytest.raises(InputError, match="start"):
        threat.random_start(key, x, ids, "linf", 0.1, "gauss")


def test_names_of_norms():
    for norm, spellings in {"linf": ("Linf", "l_inf", np.inf, "inf"), "l2": ("L2", 2, "l_2"), "l1": (1, "L_1")}.items():
        assert {threat.canonical_norm(spelling) for spelling in spellings} == {norm}
    with pytest.raises(InputError, match=r"unknown norm.*allowed: l1, l2, linf"):
        threat.canonical_norm("l0")
    assert threat.max_radius("l2", (2, 2, 1)) == 2
    assert threat.max_radius("l1", (2, 2, 1)) == 4


def test_a_misspelt_norm_or_a_negative_radius_is_no_number():
    x = jnp.full((2, 3), 0.5)
    key, ids = jax.random.key(0), jnp.arange(2)
    for wrong in (
        lambda: threat.norm(x, "linff"),
        lambda: threat.project(x, x, "l7", 0.1),
        lambda: threat.steepest_step(x, "inff"),
        lambda: threat.random_start(key, x, ids, "l0", 0.1),
    ):
        with pytest.raises(InputError, match="unknown norm"):
            wrong()
    assert threat.norm(x, "L_inf").tolist() == [0.5, 0.5]
    for eps in (-0.1, float("nan")):
        with pytest.raises(InputError, match="eps must be at least 0"):
            threat.project(x, x, "l2", eps)
