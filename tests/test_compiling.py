import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advjax import compiling, parallel

X = jnp.linspace(0.0, 1.0, 4 * 12 * 12 * 16).reshape(4, 12, 12, 16)
KERNEL = jnp.linspace(-1.0, 1.0, 9 * 16 * 16).reshape(3, 3, 16, 16)


def convolution(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@pytest.fixture
def fresh():
    compiling.options.cache_clear()
    yield
    compiling.options.cache_clear()


def in_ynnpack(program) -> bool:
    return "ynn" in program.as_text()


def test_this_jaxlib_knows_the_options():
    """If this fails on a new jaxlib, measure anew what is fast there (experiments.benchmarks.compile_options)."""
    assert compiling.options() == compiling.CPU_OPTIONS


def test_mapped_and_jitted_programs_keep_xlas_convolutions():
    if not in_ynnpack(jax.jit(convolution).lower(X, KERNEL).compile()):
        pytest.skip("this jaxlib has no YNNPACK convolutions by default")
    assert not in_ynnpack(jax.jit(convolution, compiler_options=compiling.options()).lower(X, KERNEL).compile())
    mapped = parallel.pmap(convolution, jax.devices()[:2])
    mapped(jnp.stack([X, X]), jnp.stack([KERNEL, KERNEL]))
    assert not in_ynnpack(mapped.program)


def test_same_values():
    expected = convolution(X, KERNEL)
    np.testing.assert_allclose(compiling.jit(convolution)(X, KERNEL), expected, rtol=1e-4, atol=1e-4)
    mapped = parallel.pmap(convolution, jax.devices()[:2])
    for _ in range(2):
        twice = mapped(jnp.stack([X, -X]), jnp.stack([KERNEL, KERNEL]))
        np.testing.assert_allclose(twice, jnp.stack([expected, -expected]), rtol=1e-4, atol=1e-4)


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


def test_other_backends_get_none(fresh, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiling.options() is None


def test_importing_starts_no_backend():
    code = "import advjax; from jax._src import xla_bridge; assert not xla_bridge.backends_are_initialized()"
    subprocess.run([sys.executable, "-c", code], check=True)
