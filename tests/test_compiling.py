import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import attacks, compiling, data, evaluate, models, parallel

X = jnp.linspace(0.0, 1.0, 4 * 12 * 12 * 16).reshape(4, 12, 12, 16)
KERNEL = jnp.linspace(-1.0, 1.0, 9 * 16 * 16).reshape(3, 3, 16, 16)


def convolution(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.fixture
def fresh():
    compiling.known.cache_clear()
    yield
    compiling.known.cache_clear()


def in_ynnpack(program) -> bool:
    return "ynn" in program.as_text()


def on_share(kernel, x):
    """A step of one device that gives the sum over devices."""
    return parallel.psum(convolution(x, kernel))


def test_this_jaxlib_knows_the_options():
    """If this fails on a new jaxlib, measure anew what is fast there (experiments.benchmarks.compile_options)."""
    assert compiling.options() == compiling.CPU_OPTIONS


def test_mapped_and_jitted_programs_keep_xlas_convolutions():
    if not in_ynnpack(jax.jit(convolution).lower(X, KERNEL).compile()):
        pytest.skip("this jaxlib has no YNNPACK convolutions by default")
    assert not in_ynnpack(jax.jit(convolution, compiler_options=compiling.options()).lower(X, KERNEL).compile())
    mapped = parallel.map_step(on_share, jax.devices()[:2])
    mapped(KERNEL, np.stack([X, X]))
    assert not in_ynnpack(mapped.program)


def test_same_values():
    expected = convolution(X, KERNEL)
    np.testing.assert_allclose(compiling.jit(convolution)(X, KERNEL), expected, rtol=1e-4, atol=1e-4)
    mapped = parallel.map_step(on_share, jax.devices()[:2])
    for _ in range(2):
        total = mapped(jnp.array(KERNEL), np.stack([X, -3 * X]))
        np.testing.assert_allclose(total, -2 * expected, rtol=1e-4, atol=1e-3)


def test_jit_passes_its_arguments_on():
    @functools.partial(compiling.jit, static_argnums=0)
    def apply(function, x):
        return function(x)

    assert apply(len, jnp.zeros(3)) == 3
    assert apply.__name__ == "apply"


def test_an_option_that_xla_does_not_know_is_left_out(fresh, monkeypatch):
    monkeypatch.setattr(compiling, "CPU_OPTIONS", {"xla_cpu_no_such_option": "1"})
    assert compiling.options() is None
    np.testing.assert_allclose(compiling.jit(jnp.sin)(X), jnp.sin(X))


def test_other_platforms_get_none_and_programs_of_their_own():
    """What was traced for one platform is never taken for another; for the machine's own it is what is there already."""

    @jax.jit
    def which(x):
        seen.append(compiling.platform())
        return x

    seen = []
    which(X)
    for _ in range(2):
        with compiling.target("tpu"):
            assert compiling.options() is None
            which(X)
        with compiling.for_devices(jax.devices()):
            which(X)
    assert seen == ["cpu", "tpu"]
    with compiling.target("tpu"), compiling.for_arrays(X, None):
        assert compiling.platform() == "cpu"


def test_a_program_for_a_tpu_is_lowered_on_a_machine_without_one():
    """Its attack is one loop, and none of its convolutions is the one that only XLA's CPU backend needs."""
    module = models.create("tiny_cnn", 10)
    variables = jax.eval_shape(lambda: models.init(module, jax.random.key(0), (8, 8, 1)))

    def program(variables, x, y):
        options = {"norm": "linf", "eps": 0.1, "step_size": 0.05, "steps": 3}
        return attacks.pgd(models.logits_fn(module, variables), jax.random.key(0), x, y, **options)

    arguments = variables, jax.ShapeDtypeStruct((4, 8, 8, 1), jnp.float32), jax.ShapeDtypeStruct((4,), jnp.int32)
    here = jax.jit(program).trace(*arguments).lower().as_text()
    with compiling.target("tpu"):
        there = jax.jit(program).trace(*arguments).lower(lowering_platforms=("tpu",)).as_text()
    assert "optimization_barrier" in here
    assert "optimization_barrier" not in there and "stablehlo.while" in there


def test_verdicts_multiply_float32_in_float32_on_accelerators():
    """Programs of a CPU stay as they are, whatever is asked for, and a precision that the user gave JAX stands."""

    def lowered(platform):
        return jax.jit(lambda x: x @ x.T).trace(X[0, 0]).lower(lowering_platforms=(platform,)).as_text()

    with compiling.scoring(jax.devices()), compiling.products("highest"):
        assert "HIGHEST" not in lowered("cpu")
    with compiling.target("tpu"):
        with compiling.products("default"):
            assert "HIGHEST" not in lowered("tpu")
        with compiling.products("highest"):
            assert "HIGHEST" in lowered("tpu")
        with jax.default_matmul_precision("high"), compiling.products("highest"):
            assert "HIGHEST" not in lowered("tpu")


def test_whatever_gives_verdicts_asks_for_it(monkeypatch):
    def logits_fn(x):
        seen.append(jax.default_matmul_precision.value)
        return x.reshape(len(x), -1)[:, :2]

    monkeypatch.setattr(compiling, "scoring", lambda devices: jax.default_matmul_precision("highest"))
    images, labels = np.zeros((2, 2, 2, 1), np.uint8), np.zeros(2, np.int32)
    for score in (
        lambda: evaluate.attack_dataset(logits_fn, evaluate.clean(), data.Split(images, labels)),
        lambda: attacks.cascade(
            logits_fn, jax.random.key(0), images / np.float32(255), labels, norm="linf", eps=0.1, attacks=("square_1",)
        ),
    ):
        seen = []
        score()
        assert "highest" in seen


def test_importing_starts_no_backend():
    code = "import advjax; from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(not compiling.mappings(), reason="this system does not say how much memory is mapped")
def test_programs_are_let_go_of_where_they_take_many_mappings():
    step = jax.jit(lambda x: jnp.sin(x) + 1)
    step(X)
    assert step._cache_size() == 1
    compiling.forget_programs(most=10**9)
    assert step._cache_size() == 1
    compiling.forget_programs(most=0)
    assert step._cache_size() == 0
