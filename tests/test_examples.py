"""The examples as their readers run them: a loop of one's own; a method, network, data, schedule, writer from outside."""

import ast
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import advjax
from advjax import evaluate
from advjax.cli import evaluate as cli_evaluate
from tests.commands import ROOT, assert_one_line, run_all

EXAMPLES = ROOT / "examples"

PAGE = (ROOT / "docs/extending.md").read_text()


def shown(page):
    """The files that a page shows: every block that begins with a file's name."""
    return dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page, re.DOTALL))


FILES = shown(PAGE)

# my_config.py as it stands, with a teacher that is not near chance and everything else small.
SMALL = (
    "--config=my_config.py:digits",
    "--config.network.width=2",
    "--config.epochs=1",
    "--config.attack.steps=1",
    "--config.validation.steps=1",
    "--config.data.examples=256",
    "--config.evaluation.examples=32",
    "--config.evaluation.protocol=clean",
    "--config.log.tensorboard=False",
    "--config.teachers.robust.train.epochs=8",
    "--config.teachers.robust.train.attack.steps=0",
    "--config.teachers.robust.train.batch_size=32",
    "--config.teachers.robust.train.validation.every=8",
)
OUTSIDE = (
    "--config.network.name=my_net:MyNet",
    "--config.network.width=16",
    "--config.data.name=my_data:load",
    "--config.data.examples=0",
    "--config.data.validation=16",
    "--config.schedule.name=my_schedule:halves",
    "--config.log.writers=('my_writer:Lines',)",
    "--config.batch_size=32",
    "--config.epochs=2",
    "--config.teachers.robust.network.name=my_net:MyNet",
)
WRONG = [
    ("--config.method.name=my_method:ARDD", "did you mean ARD"),
    ("--config.method.name=my_methods:ARD", "no module my_methods"),
    ("--config.method.a=2.0", "method.a must be between 0 and 1"),
    ("--config.network.name=my_net:YourNet", "did you mean MyNet"),
    ("--config.network.name=my_data:load", "takes no argument num_classes"),
    ("--config.data.name=my_data:save", "allowed: "),
    ("--config.data.name=my_net:MyNet", "my_net:MyNet must return an advjax.data.Dataset"),
    ("--config.schedule.name=my_schedule:thirds", "halves"),
    ("--config.log.writers=('my_writer:Line',)", "did you mean Lines"),
    ("--config.log.writers=('no_writer:NoWriter',)", "log.writers must have the methods write and close"),
    ("--config.evaluation.protocol=my_protocol:yours", "protocol"),
]


def test_a_loop_of_ones_own():
    """On one device and with XLA's optimisations, as its reader has them: it computes more than it compiles."""
    code = "import own_loop; print(own_loop.main(epochs=1))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=EXAMPLES, env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr
    clean, robust = ast.literal_eval(result.stdout.splitlines()[-1])
    assert clean > 0.7 and 0.1 < robust < clean


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of the reader's own, outside this checkout, with the files as the page has them."""
    folder = tmp_path_factory.mktemp("theirs")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    (folder / "no_writer.py").write_text("class NoWriter:\n    pass\n")
    return folder


def test_the_page_shows_the_examples_as_they_are():
    assert set(FILES) > {"my_method.py", "my_config.py", "my_net.py", "my_data.py", "my_schedule.py", "my_writer.py"}
    for name in ("my_method.py", "my_config.py"):
        assert FILES[name] == (EXAMPLES / name).read_text()


@pytest.fixture(scope="module")
def results(folder):
    """Every command that knows a run, on the example's and on one where everything is from outside."""
    ours, theirs = [["run", *SMALL, "--workdir=ard"], ["run", *SMALL, *OUTSIDE, "--workdir=outside"]]
    rest = [
        ["evaluate", "--workdir=outside", "--protocol=my_protocol:mine", "--out=evaluated", "--compilation_cache=off"],
        ["export", "--workdir=outside", "--format=orbax"],
        ["compare", "--runs=outside", "--root=compared"],
    ]
    return run_all([ours, theirs, theirs, *rest], folder)


def test_every_command_works_on_a_run_whose_parts_are_from_outside(folder, results):
    for result in results:
        assert result.status == 0, result
    assert results[2].stdout.count("\n") == 1 and results[2].stdout.startswith("finished already"), results[2]
    report = json.loads((folder / "outside/report.json").read_text())
    assert report["method"] == "my_method:ARD"
    assert report["networks"]["student"]["architecture"] == "my_net:MyNet"
    again = json.loads((folder / "evaluated/report.json").read_text())
    assert again["networks"]["student"]["architecture"] == "my_net:MyNet"
    assert [row["attack"] for row in again["results"]] == ["clean", "pgd20", "darker"]
    assert "create('my_net:MyNet', 3, width=16)" in (folder / "outside/export/orbax/model_card.md").read_text()
    assert "| outside |" in (folder / "compared/compare.md").read_text()


def test_the_parts_do_what_they_say(folder, results):
    records = [json.loads(line) for line in (folder / "outside/metrics.jsonl").read_text().splitlines()]
    rates = [record["learning_rate"] for record in records]
    np.testing.assert_allclose(rates[1], rates[0] / 2, rtol=1e-6)
    lines = [f"{record['step']} {record['loss']}" for record in records]
    assert (folder / "outside/lines.txt").read_text().splitlines() == lines
    data = json.loads((folder / "outside/data.json").read_text())
    assert (data["train"], data["validation"], data["test"], data["image_shape"]) == (80, 16, 32, [4, 4, 1])


def test_load_run_finds_the_parts(folder, results, monkeypatch):
    monkeypatch.chdir(folder)
    before = set(sys.modules)
    try:
        module, variables = advjax.load_run("outside", checkpoint="last")
    finally:
        for name in set(sys.modules) - before:
            if name.startswith("my_"):
                del sys.modules[name]
    assert type(module).__name__ == "MyNet"
    assert advjax.logits_fn(module, variables)(np.zeros((2, 4, 4, 1))).shape == (2, 3)
    report = json.loads((folder / "outside/report.json").read_text())
    assert evaluate.params_sha256(variables) == report["networks"]["student"]["params_sha256"]


def test_a_missing_or_wrong_part_is_one_line_and_status_2(folder):
    commands = [["run", *SMALL, *OUTSIDE, "--workdir=wrong", flag] for flag, _ in WRONG]
    for (_, expected), result in zip(WRONG, run_all(commands, folder), strict=True):
        assert_one_line(result, expected)
    assert not (folder / "wrong").exists()


def test_an_adaptive_attack_in_ten_lines(tmp_path, monkeypatch):
    """The page's defence stands where PGD is, and falls to the page's attack."""
    page = (ROOT / "docs/adaptive-attacks.md").read_text()
    for name, content in shown(page).items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    command = re.search(r"experiments\.(evaluate --function.*)\n", page).group(1).split()
    assert cli_evaluate.main([*command, "--examples=100"]) == 0
    report = json.loads((tmp_path / "runs/mine/report.json").read_text())
    accuracy = {row["attack"]: row["accuracy"] for row in report["results"]}
    assert accuracy["pgd100"] > accuracy["clean"] - 0.1 > 0.7
    assert accuracy["straight_through"] < 0.2
