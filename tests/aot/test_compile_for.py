"""A training step and AutoAttack compiled for TPUs that are not there, and what must hold of the programs."""

import importlib.util
import json

import pytest

from advjax.aot import CHIPS
from advjax.aot.hlo import Program
from tests.commands import assert_one_line, run_all

libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="XLA's compiler for TPUs is not there: the extra tpu-aot"
)


def compiled(folder, *flags):
    """Name -> (what is reported of it, the program)."""
    (result,) = run_all([["compile_for", *flags, f"--report={folder}/report.json", f"--texts={folder}"]])
    assert result.status == 0 and "compilation cache" not in result.stderr, result.stderr
    rows = json.loads((folder / "report.json").read_text())["programs"]
    return {row["program"]: (row, Program((folder / f"{row['program']}.txt").read_text())) for row in rows}


@libtpu
def test_a_bfloat16_step_of_four_chips(tmp_path):
    """What a review of such programs once found: the whole set laid out anew, a crop image by image."""
    flags = ("--config=trades:cifar10", "--config.network.name=tiny_cnn", "--config.network.width=8")
    flags += ("--config.precision=bfloat16", "--target=v5e:2x2", "--programs=step")
    row, program = compiled(tmp_path, *flags)["step"]
    assert row["peak_bytes"] < CHIPS["v5e"].usable / 50 and not row["float64"] and row["host_transfers"] == 0
    (loop,) = row["loops"]
    assert loop["trips"] == 10 and row["collectives"]["all-reduce"] and row["collectives_in_loops"] == {}
    assert list(row["convolutions"]) == ["bf16"]
    assert None not in row["loops_without_products"] and row["batch"] // 4 not in row["loops_without_products"]
    assert not [array for op in ("copy", "transpose") for array in program.shapes(op) if 49_000 in array.dims]
    assert row["flops"] == pytest.approx(row["flops_counted"], rel=0.15)


@libtpu
def test_autoattack_multiplies_float32_in_float32_and_keeps_its_state_in_place(tmp_path):
    row, program = compiled(tmp_path, "--config=trades:digits", "--target=v5e", "--programs=apgd_ce")["apgd_ce"]
    assert list(row["products"]) == ["f32 highest"] and row["batch"] % 128 == 0
    assert row["flops"] == row["flops_counted"] and row["collectives"] == {} and row["host_transfers"] == 0
    assert program.aliased > 10


def test_bad_input_is_one_line():
    config = "--config=trades:digits"
    target, program = run_all(
        [["compile_for", config, "--target=v5e:2by2"], ["compile_for", config, "--programs=step,fab"]]
    )
    assert_one_line(target, "target must be one chip or a TPU's slice")
    assert_one_line(program, "--programs must be a program, it is 'fab'; did you mean")
