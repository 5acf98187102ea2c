"""The benchmarks: they run at toy size, and the arithmetic that they compare times with is what the steps do."""

import json
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from advjax import models
from advjax.errors import InputError
from experiments.benchmarks import common, convolutions, passes, steps

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# The first layer's image gradient, which no training step needs, is little of a network of this width.
SIZES = {"network": "tiny_cnn", "width": 64, "batch": 2, "size": 8, "forward_mode": True}


def forward_flops(module, count):
    shapes = models.variable_shapes(module, (8, 8, 3))
    return passes.flops(lambda v, x: module.apply(v, x), shapes, jax.ShapeDtypeStruct((count, 8, 8, 3), jnp.float32))


def traced_passes(name, attack_steps):
    run = steps.experiment(name, steps=attack_steps, **SIZES)
    step = steps.Step(run)
    module = next(iter(run.modules.values()))
    return passes.flops(step.mapped, step.state, *step.rest) / forward_flops(module, SIZES["batch"])


@pytest.mark.parametrize("name", ["natural", "pgd_at", "trades", "dynat"])
def test_a_step_does_the_arithmetic_of_the_table(name):
    table = passes.PASSES[name]
    assert traced_passes(name, 7) == pytest.approx(table.per_step * 7 + table.rest, rel=0.015)


def test_arithmetic_of_convolutions_products_and_loops():
    x, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 5))

    def convolve(x):
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    one = 2 * (2 * 4 * 4 * 5) * (3 * 3 * 3)
    assert passes.flops(convolve, x) == one
    # The gradient of a strided convolution inserts zeros, which are no arithmetic.
    assert passes.flops(jax.grad(lambda x: convolve(x).sum()), x) == pytest.approx(2 * one)
    product = jnp.zeros((4, 6))
    assert passes.flops(lambda a: a @ a.T, product) == 2 * 4 * 4 * 6
    loop = jax.jit(lambda a: jax.lax.fori_loop(0, 7, lambda _, a: a @ a, a))
    assert passes.flops(loop, jnp.zeros((4, 4))) == 7 * 2 * 4**3
    with pytest.raises(ValueError, match="while"):
        passes.flops(lambda a, n: jax.lax.fori_loop(0, n, lambda _, a: a @ a, a), jnp.zeros((4, 4)), 3)


def test_convolutions_are_those_of_the_network():
    shapes = models.variable_shapes(models.create("resnet18", 10, width=16), (32, 32, 3))["params"]
    kernels = [leaf.shape for leaf in jax.tree.leaves(shapes) if leaf.ndim == 4 and leaf.shape[2] > 3]
    counted = convolutions.layers(16, 32)
    assert sorted(kernels) == sorted((s, s, i, o) for (_, i, o, s, _), n in counted.items() for _ in range(n))


def test_alternatives_take_turns():
    calls = []
    times = common.measure({name: lambda name=name: calls.append(name) for name in "ab"}, 2)
    assert calls == list("ababab")
    assert all(row["min"] <= row["median"] <= row["max"] for row in times.values())


def test_a_turn_that_is_slow_for_all_does_not_count():
    assert common.over({"times": [2.0, 20.0, 2.0]}, {"times": [1.0, 10.0, 4.0]}) == 2


def test_growth_as_a_line_and_as_a_power():
    linear, square = common.growth([1, 2, 4], [5, 7, 11]), common.growth([1, 2, 4], [3, 12, 48])
    assert (linear["at 0"], linear["per unit"], linear["deviation"]) == pytest.approx((3, 2, 0), abs=1e-9)
    assert square["power"] == pytest.approx(2)
    assert square["deviation"] > 0.1


def test_one_command_runs_and_writes(tmp_path):
    file = tmp_path / "results.json"
    command = [sys.executable, "-m", "experiments.benchmarks", "--only=train_step,compile_options,autoattack"]
    command.append(f"--results={file}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "autoattack: left out" in done.stdout
    result, options = json.loads(file.read_text())["benchmarks"]
    (table,) = options["tables"].values()
    assert [row["options"] for row in table] == ["advjax.compiling.options()", "default"]
    assert {"jax", "device", "cpu_cores"} <= set(result["hardware"])
    assert "experiments.benchmarks.train_step" in result["command"]
    inner, methods = result["tables"].values()
    assert [row["K"] for row in inner] == [0, 2]
    assert [row["ideal"] for row in inner] == pytest.approx([1, 7 / 3])
    assert [(row["method"], row["passes"]) for row in methods] == [("pgd_at", 8), ("trades", 11)]
    assert methods[0]["over PGD-AT"] == 1
    assert "| pgd_at | 8 |" in done.stdout


def test_the_authors_autoattack_is_asked_for_where_it_is_missing(monkeypatch):
    from experiments.benchmarks import against_autoattack

    monkeypatch.setitem(sys.modules, "autoattack", None)
    with pytest.raises(InputError, match="needs PyTorch and the authors' package autoattack"):
        against_autoattack.theirs(None, None)


SLOW_LINES = """
import sys, time
for i in range(3):
    work = time.process_time()
    while time.process_time() - work < float(sys.argv[2]):
        pass
    print(sys.argv[1], i, flush=True)
"""


def test_turns_time_two_processes_that_never_run_together():
    from experiments.benchmarks.against_autoattack import Process, in_turns

    def start(name, work):
        return Process([sys.executable, "-c", SLOW_LINES, name, str(work)], {})

    began = time.perf_counter()
    processes = {"a": start("a", 0.2), "b": start("b", 0.1)}
    lines = list(in_turns(processes, {"a": 0.15, "b": 0.1}))
    wall = time.perf_counter() - began
    for name, work in (("a", 0.2), ("b", 0.1)):
        own = [(ran, line) for owner, ran, line in lines if owner == name]
        assert [line for _, line in own] == [f"{name} {i}" for i in range(3)]
        assert all(ran >= work * (i + 1) for i, (ran, _) in enumerate(own))
        assert own[-1][0] <= processes[name].seconds
    assert [owner for owner, _, _ in lines] != sorted(owner for owner, _, _ in lines)
    assert sum(process.seconds for process in processes.values()) <= wall


def test_a_process_that_fails_ends_the_turns_and_the_other():
    from experiments.benchmarks.against_autoattack import Process, in_turns

    fails = Process([sys.executable, "-c", "raise SystemExit(3)"], {})
    waits = Process([sys.executable, "-c", "import time; time.sleep(600)"], {})
    with pytest.raises(InputError, match="ended with status 3"):
        list(in_turns({"waits": waits, "fails": fails}, {"waits": 0.05, "fails": 5.0}))
    assert waits.process.poll() is not None


def test_a_wrong_flag_is_one_line():
    command = [sys.executable, "-m", "experiments.benchmarks", "--only=nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("error: unknown benchmark (--only)")
