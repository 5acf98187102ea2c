"""The command line as its users run it: in processes of its own, on four simulated devices."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.commands import ROOT, assert_one_line, run_all

PGD_AT = "experiments/configs/pgd_at.py"
SHORT = (
    "--config.epochs=3",
    "--config.attack.steps=2",
    "--config.validation.steps=2",
    "--config.log.tensorboard=False",
)


def command(workdir, *flags, config=f"{PGD_AT}:digits"):
    return [sys.executable, "-m", "experiments.run", f"--config={config}", f"--workdir={workdir}", *flags]


def run(workdir, *flags, config=f"{PGD_AT}:digits"):
    return subprocess.run(
        command(workdir, *flags, config=config), cwd=ROOT, capture_output=True, text=True, timeout=600
    )


def report(workdir):
    """The report without what may differ between two runs of one command."""
    content = json.loads((workdir / "report.json").read_text())
    for row in content["results"]:
        row.pop("seconds")
    return content


def kill_when(workdir, condition, *flags):
    """Starts the run and kills it with SIGKILL as soon as the condition holds."""
    process = subprocess.Popen(
        command(workdir, *flags), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    deadline = time.monotonic() + 300
    try:
        while not condition():
            assert process.poll() is None, f"the run ended before it could be killed:\n{process.stdout.read().decode()}"
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (workdir / "report.json").exists()


def metrics(workdir):
    path = workdir / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "reference"
    result = run(workdir, *SHORT)
    assert result.returncode == 0, result.stderr
    return workdir


def test_a_run_leaves_what_the_contract_names(finished):
    content = report(finished)
    assert content["method"] == "pgd_at"
    assert content["norm"] == "linf"
    assert content["eps"] == 0.2
    assert content["networks"]["model"]["architecture"] == "tiny_cnn"
    assert len(content["networks"]["model"]["params_sha256"]) == 64
    rows = {(row["checkpoint"], row["attack"]): row for row in content["results"]}
    assert {"clean", "pgd20"} <= {attack for _, attack in rows}
    for row in rows.values():
        assert row["eps_text"] == "0.2"
        assert row["n"] == 360
        assert 0 <= row["accuracy"] <= 1
    assert rows["last", "pgd20"]["accuracy"] <= rows["last", "clean"]["accuracy"]
    assert rows["last", "pgd20"]["w_robust"] == pytest.approx(
        (rows["last", "pgd20"]["accuracy"] + rows["last", "clean"]["accuracy"]) / 2
    )
    assert "| pgd20 |" in (finished / "report.md").read_text()
    assert json.loads((finished / "config.json").read_text())["attack"]["eps"] == "0.2"
    split = json.loads((finished / "data.json").read_text())
    assert len(set(split["validation_index"])) == 200
    assert (split["train"], split["test"]) == (1237, 360)


def test_metrics_have_a_record_per_epoch(finished):
    records = metrics(finished)
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert [record["step"] for record in records] == [10, 20, 30]
    for record in records:
        assert {"loss", "seconds", "robust_accuracy", "train_clean_accuracy", "train_robust_accuracy"} <= set(record)
        assert {"validation_clean_accuracy", "validation_robust_accuracy", "learning_rate"} <= set(record)
    assert records[-1]["loss"] < records[0]["loss"]


def test_a_finished_run_returns_at_once(finished):
    before = (finished / "report.json").stat().st_mtime_ns
    result = run(finished, *SHORT)
    assert result.returncode == 0
    assert "finished already" in result.stdout
    assert (finished / "report.json").stat().st_mtime_ns == before


def test_killed_three_times_and_repeated_ends_in_the_same_parameters(finished, tmp_path):
    workdir = tmp_path / "killed"

    def in_the_middle_of_an_epoch():
        if not metrics(workdir):
            return False
        time.sleep(0.05)
        return True

    def during_a_save():
        # orbax writes under a temporary name, 30.orbax-checkpoint-tmp, and renames at the end
        return any((workdir / "checkpoints").glob("30*"))

    kill_when(workdir, in_the_middle_of_an_epoch, *SHORT)
    kill_when(workdir, during_a_save, *SHORT)
    assert [record["epoch"] for record in metrics(workdir)][:2] == [1, 2]
    process = subprocess.Popen(command(workdir, *SHORT), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("model (best): clean"):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (workdir / "report.json").exists()
    assert run(workdir, *SHORT).returncode == 0
    assert report(workdir) == report(finished)
    assert [record["step"] for record in metrics(workdir)] == [10, 20, 30]
    for ours, theirs in zip(metrics(workdir), metrics(finished), strict=True):
        timing = ("seconds", "images_per_second")
        assert {k: v for k, v in ours.items() if k not in timing} == {
            k: v for k, v in theirs.items() if k not in timing
        }


def test_one_device_resumes_what_four_began(finished, tmp_path):
    """Nearly the same parameters, whatever the number of devices; with three epochs rounding has not grown yet."""
    workdir = tmp_path / "devices"
    kill_when(workdir, lambda: len(metrics(workdir)) >= 2 and any((workdir / "checkpoints").glob("20")), *SHORT)
    assert run(workdir, *SHORT, "--config.devices=1").returncode == 0
    import advjax

    ours, theirs = (advjax.load_run(path, checkpoint="last")[1]["params"] for path in (workdir, finished))
    import jax

    difference = jax.tree.map(lambda a, b: float(np.max(np.abs(a - b))), ours, theirs)
    assert max(jax.tree.leaves(difference)) < 1e-3


def test_load_run_gives_the_network_of_the_report(finished):
    import advjax
    from advjax import evaluate
    from advjax.data import load

    module, variables = advjax.load_run(finished, checkpoint="last")
    content = report(finished)
    assert evaluate.params_sha256(variables) == content["networks"]["model"]["params_sha256"]
    outcome = evaluate.attack_dataset(advjax.logits_fn(module, variables), evaluate.clean(), load("digits").test)
    assert outcome.accuracy == next(
        r["accuracy"] for r in content["results"] if (r["checkpoint"], r["attack"]) == ("last", "clean")
    )


def test_init_from_starts_at_the_weights_of_a_run(finished, tmp_path):
    workdir = tmp_path / "fine_tuned"
    flags = ("--config.epochs=1", "--config.optimizer.learning_rate=1e-30", "--config.log.tensorboard=False")
    result = run(workdir, *flags, f"--config.init_from={finished}")
    assert result.returncode == 0, result.stderr
    import advjax

    ours = advjax.load_run(workdir, checkpoint="last")[1]["params"]
    theirs = advjax.load_run(finished, checkpoint="best")[1]["params"]
    for path in ("fc1", "fc2"):
        np.testing.assert_array_equal(ours[path]["kernel"], theirs[path]["kernel"])


def test_dry_run_writes_nothing(tmp_path):
    result = run(tmp_path / "dry", "--dry_run")
    assert result.returncode == 0, result.stderr
    assert "parameters" in result.stdout
    assert '"eps": "0.2"' in result.stdout
    assert "a step" in result.stdout
    assert not (tmp_path / "dry").exists()


def test_list_names_everything(capsys):
    result = subprocess.run(
        [sys.executable, "-m", "experiments.run", "--list"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    for name in ("quickstart", "trades", "digits, cifar10", "resnet18", "svhn_cropped", "quick"):
        assert name in result.stdout


def test_another_experiment_in_the_workdir_is_refused(finished):
    before = {path: path.read_bytes() for path in finished.iterdir() if path.is_file()}
    result = run(finished, *SHORT, "--config.seed=1")
    assert result.returncode == 2
    assert "seed: 0 -> 1" in result.stderr
    assert {path: path.read_bytes() for path in finished.iterdir() if path.is_file()} == before


def test_a_field_that_does_not_change_the_training_evaluates_again(finished):
    result = run(finished, *SHORT, "--config.evaluation.examples=100")
    assert result.returncode == 0, result.stderr
    assert "train clean" not in result.stdout  # no line about an epoch
    assert {row["n"] for row in report(finished)["results"]} == {100}


BAD_INPUT = [
    (["--config=experiments/configs/quikstart.py"], "did you mean experiments/configs/quickstart.py"),
    (["--config=pgdat"], "did you mean pgd_at"),
    ([f"--config={PGD_AT}:digit"], "did you mean digits"),
    (["--config.epohcs=3"], "did you mean config.epochs"),
    (["--config.epochs=many"], "config.epochs must be"),
    (["--config.epochs=0"], "epochs must be between 1"),
    (["--config.method.name=trads"], "did you mean trades"),
    (["--config.network.name=resnet19"], "did you mean resnet18"),
    (["--config.network.width=-1"], "width"),
    (["--config.data.name=digit"], "did you mean digits"),
    (["--config.data.name=cifar10", "--config.data.path=no/such/file.npz"], "data.path"),
    (["--config.data.validation=2000"], "data.validation"),
    (["--config.batch_size=126"], "batch_size must be a positive multiple of the 4 devices"),
    (["--config.attack.eps=8"], "did you mean 8/255"),
    (["--config.attack.eps=x/255"], "attack.eps must be a number or a fraction"),
    (["--config.attack.norm=l2", "--config.attack.eps=9"], "between 0 and 8 for l2"),
    (["--config.evaluation.protocol=quik"], "did you mean quick"),
    (["--config.init_from=no/such/run"], "init_from"),
    (["--workdirr=x"], "did you mean --workdir"),
    (["--workdir=LICENSE/x"], "workdir must be a folder"),
    (["--workdir=bucket://bucket/run"], "workdir: bucket://bucket/run: Protocol not known"),
    (["--config.hosts=10.0.0.1:9876"], "hosts must be auto, off, or COORDINATOR:PORT,COUNT,INDEX"),
    (["stray"], "unexpected argument 'stray'"),
]


def test_bad_input_is_one_line_and_status_2(tmp_path):
    commands = [["run", f"--config={PGD_AT}:digits", f"--workdir={tmp_path / 'new'}", *flags] for flags, _ in BAD_INPUT]
    for (_, expected), result in zip(BAD_INPUT, run_all(commands), strict=True):
        assert_one_line(result, expected)
    assert not (tmp_path / "new").exists()
