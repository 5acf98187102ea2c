"""What is read out of a program's text, and where the largest batch is looked for."""

import pathlib

import jax
import jax.numpy as jnp
import pytest

from advjax.aot import chips, flops
from advjax.aot.hlo import Product, Program
from advjax.aot.report import largest_batch
from advjax.errors import InputError

# As a TPU's compiler writes it: S(1) is vector memory, S(5) the host's; a loop of 10 turns whose bound is carried along.
TPU = (pathlib.Path(__file__).parent / "tpu.hlo").read_text()


def test_a_tpus_program():
    entry = Program(TPU).entry
    (loop,) = entry.loops
    body, image, kernel = loop.body, 8 * 32 * 32 * 16, 9 * 16 * 16
    assert loop.trips == 10
    assert body.products == (Product(2 * image * 9 * 16, "bf16", "default", True),)
    # The kernel once, in the background; the images once, since what follows stays in vector memory.
    assert body.moved == {"prefetch": 2 * kernel, "products": 2 * image, "collectives": 0}
    assert body.cycles["products"] == 700 and body.collectives == {"all-reduce": 1}
    assert entry.copies == (4 * image, 4 * image) and body.copies == () and entry.casts == ()
    assert entry.host == 1 and not entry.collectives


def test_a_compiled_loop_has_the_arithmetic_of_its_trace():
    kernel = jnp.ones((3, 3, 4, 4))

    def step(x):
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.tanh(y) + 0 * (y.reshape(len(x), -1) @ jnp.ones((y[0].size, 1)))[:, :, None, None]

    def loop(x):
        return jax.lax.fori_loop(0, 7, lambda _, x: step(x), x)

    x = jnp.ones((2, 8, 8, 4))
    options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"}
    program = Program(jax.jit(loop, compiler_options=options).lower(x).compile().as_text())
    (found,) = program.entry.loops
    assert found.trips == 7
    assert found.trips * sum(p.flops for p in found.body.products if p.window) == 7 * 2 * x.size * 9 * 4
    assert flops(loop, x) == 7 * (2 * x.size * 9 * 4 + 2 * x.size)


@pytest.mark.parametrize(("at_zero", "slope", "room"), [(100, 3.0, 10_000), (500, 0.5, 4096), (0, 7.0, 16_000)])
def test_the_largest_batch_is_found_in_few_compilations(at_zero, slope, room):
    asked = []

    def peak(batch):
        asked.append(batch)
        used = at_zero + slope * batch * (1.05 if batch > 600 else 1)
        return int(used) if used <= room else None

    found, best = largest_batch(peak, 128, 4, room, 49_000), (room - at_zero) / slope / 1.05
    assert 0.9 * best <= found <= best and found % 4 == 0 and len(asked) <= 7
    assert largest_batch(peak, 128, 4, room, 1001) == 1000
    assert largest_batch(lambda _: None, 128, 4, room, 49_000) == 0


def test_targets():
    assert chips.parse("v5e") == ("v5e", ()) and chips.parse("v6e:2x4") == ("v6e", (2, 4))
    for wrong in ("v5f", "v5e:four", "h100:2x2"):
        with pytest.raises(InputError, match="target"):
            chips.parse(wrong)
    v5e = chips.CHIPS["v5e"]
    assert v5e.seconds(197e12, "bf16") == 1 and v5e.seconds(197e12, "f32", "highest") == 6
