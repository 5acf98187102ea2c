"""A run's folder: what cannot be read is said in one line."""

import functools
import json
import pathlib
import re
import shutil

import pytest

import advjax
from advjax import cli, runs
from advjax.cli import export
from advjax.cli import report as report_command
from advjax.errors import InputError
from advjax.evaluate.report import check_report
from advjax.runs import tables
from advjax.runs.workdir import is_finished, need_report, prepare, read_config, read_report


@pytest.fixture
def copy(small_run, tmp_path):
    """A copy of the run, to be spoilt."""
    return shutil.copytree(small_run, tmp_path / "copy")


GARBLED = {
    "no JSON": (b"{", "cannot be read"),
    "no text": (b"\xff\xfe\x00", "cannot be read"),
    "endless": (b"[" * 100_000, "cannot be read"),
    "a list": (b"[1]", "holds no JSON object"),
    "empty": (b"", "cannot be read"),
}


@pytest.mark.parametrize("kind", GARBLED)
@pytest.mark.parametrize("name", ["config.json", "data.json"])
def test_garbled_files(copy, name, kind):
    content, expected = GARBLED[kind]
    (copy / name).write_bytes(content)
    with pytest.raises(InputError, match=expected) as error:
        advjax.load_run(copy)
    assert "\n" not in str(error.value) and str(copy / name) in str(error.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"epohcs": 3}, "unknown config field 'epohcs'"),
        ({"epochs": "many"}, "epochs must be a whole number"),
        ({"method": {"name": "trads"}}, "did you mean trades"),
        ({"method": 3}, "method must be a group of fields"),
        ({"network": {"name": "tiny_cnn", "wdth": 2}}, "wdth"),
    ],
)
def test_a_config_that_says_what_cannot_be(copy, change, expected):
    content = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(InputError, match=expected) as error:
        advjax.load_run(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"num_classes": 10**30}, "does not say num_classes"),
        ({"num_classes": float("nan")}, "does not say num_classes"),
        ({"image_shape": [float("inf"), 4, 1]}, "does not say num_classes and image_shape"),
        ({"image_shape": [0, 4, 1]}, "does not say num_classes and image_shape"),
        ({"image_shape": [4, 4]}, "does not say num_classes and image_shape"),
        ({"image_shape": "441"}, "does not say num_classes and image_shape"),
        ({"train": float("inf")}, "is damaged: train is inf"),
        ({"sha256": 3}, "is damaged: sha256 is 3"),
        ({"name": 3}, "is damaged: name is 3"),
    ],
)
def test_data_that_no_run_noted(copy, change, expected):
    content = json.loads((copy / "data.json").read_text())
    (copy / "data.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(InputError, match=rf"data\.json {expected}") as error:
        advjax.load_run(copy)
    assert "\n" not in str(error.value)


def spoilt(report, path, value):
    *above, last = path
    functools.reduce(lambda group, name: group[name], above, report)[last] = value


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (["method"], ["x"], r"method is \['x'\]"),
        (["eps"], "x", "eps is 'x'"),
        (["results"], None, "results is None"),
        (["results"], [1], r"results\[0\] is 1, not a group of fields"),
        (["results"], [{}], r"it lacks results\[0\]\.network"),
        (["results", 0, "accuracy"], "x", r"results\[0\]\.accuracy is 'x'"),
        (["results", 0, "accuracy"], float("nan"), r"results\[0\]\.accuracy is nan; allowed: 0 to 1"),
        (["results", 0, "accuracy"], 7, r"results\[0\]\.accuracy is 7; allowed: 0 to 1"),
        (["results", 0, "flags"], [3], "a warning or flag is 3"),
        (["networks"], {}, "networks is empty"),
        (["networks", "model"], 3, r"networks\.model is 3, not a group of fields"),
        (["warnings"], 3, "warnings is 3"),
        (["results", 0, "seconds"], float("inf"), r"results\[0\]\.seconds is inf; allowed: 0 to 1e\+12"),
        (["figures"], [3], r"figures\[0\] is 3, not a group of fields"),
        (["figures", 0, "ece"], "x", r"figures\[0\]\.ece is 'x'"),
        (["data", "test_sha256"], 3, r"data\.test_sha256 is 3"),
    ],
)
def test_a_report_that_says_what_none_says(copy, path, value, expected):
    """Whoever reads it: a run that would say that it is finished, a comparison, a page, a model card."""
    report = json.loads((copy / "report.json").read_text())
    spoilt(report, path, value)
    (copy / "report.json").write_text(json.dumps(report))
    for read in (read_report, tables.load):
        with pytest.raises(InputError, match=rf"report\.json is damaged: {expected}") as error:
            read(copy)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (["version"], "has no version, which a page shows"),
        (["results", 0, "seed"], r"has no results\[0\]\.seed, which"),
        (["figures", 0, "nrr"], r"has no figures\[0\]\.nrr, which"),
    ],
)
def test_a_report_that_lacks_what_its_page_shows(copy, path, expected):
    """A comparison takes it, since other versions' reports may lack it; the pages are not made, in one line."""
    report = json.loads((copy / "report.json").read_text())
    *above, last = path
    del functools.reduce(lambda group, name: group[name], above, report)[last]
    (copy / "report.json").write_text(json.dumps(report))
    assert read_report(copy) == report
    page = (copy / "report.html").read_bytes()
    with pytest.raises(InputError, match=rf"report\.json {expected}"):
        need_report(copy, whole=True)
    report["results"] = [row for row in report["results"] if row["attack"] != "clean"]
    with pytest.raises(InputError):
        check_report(report, "it", whole=True)
    assert report_command.main(["report", f"--workdir={copy}"]) == 2
    assert (copy / "report.html").read_bytes() == page


@pytest.mark.parametrize("name", ["report.html", "report.json", "metrics.jsonl", "config.json"])
def test_a_folder_in_the_place_of_a_file(copy, name, capsys):
    (copy / name).unlink()
    (copy / name).mkdir()
    assert report_command.main(["report", f"--workdir={copy}"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert str(copy / name) in said and "s a directory" in said


def test_an_index_of_checkpoints_that_says_nothing_of_them(copy):
    index = json.loads((copy / "checkpoints.json").read_text())
    for entry in (1, None):
        (copy / "checkpoints.json").write_text(json.dumps(dict.fromkeys(index, entry)))
        with pytest.raises(InputError, match=r"checkpoints\.json is damaged: it does not hold a group of fields"):
            advjax.load_run(copy)
    for field, value in (
        ("sha256", []),
        ("score", "x"),
        ("score", float("nan")),
        ("rollbacks", "x"),
        ("totals", {"a": 1}),
    ):
        number = max(index)
        (copy / "checkpoints.json").write_text(json.dumps({**index, number: {**index[number], field: value}}))
        with pytest.raises(InputError, match=rf"checkpoints\.json is damaged: {field} of checkpoint {number} is"):
            advjax.load_run(copy)


def test_what_a_folder_lacks(copy, tmp_path):
    with pytest.raises(InputError, match=r"nowhere is not the folder of a run: it has no config\.json"):
        advjax.load_run(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"^checkpoint must be a checkpoint, it is 'bst'; did you mean best"):
        advjax.load_run(copy, checkpoint="bst")
    with pytest.raises(InputError, match=r"^network must be a network of the run in .*, it is 'student'.*model"):
        advjax.load_run(copy, "student")
    (copy / "data.json").write_text('{"num_classes": 3}')
    with pytest.raises(InputError, match=r"data\.json does not say num_classes and image_shape"):
        advjax.load_run(copy)
    (copy / "data.json").write_text('{"num_classes": 4, "image_shape": [4, 4, 1]}')
    with pytest.raises(InputError, match=r"checkpoint in .*: params/.* has shape .*, TinyCNN needs"):
        advjax.load_run(copy)
    (copy / "data.json").write_text('{"num_classes": 3, "image_shape": [4, 4, 1]}')
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(InputError, match="has no checkpoint yet"):
        advjax.load_run(copy)
    (copy / "checkpoints").mkdir()
    with pytest.raises(InputError, match="has no checkpoint yet"):
        advjax.load_run(copy)


def test_the_config_comes_back_and_only_its_report_makes_a_run_finished(small_run, small_config, copy):
    config = read_config(small_run)
    assert config == runs.read(small_config) and is_finished(small_run, config)
    other = small_config.copy_and_resolve_references()
    other.evaluation.seed = 1
    assert not is_finished(small_run, runs.read(other))
    (copy / "report.json").unlink()
    assert not is_finished(copy, config)


def test_a_folder_is_prepared_for_one_training_alone(small_config, copy, tmp_path):
    prepare(copy, runs.build(small_config))
    other = small_config.copy_and_resolve_references()
    other.seed = 1
    with pytest.raises(InputError, match=r"holds a run with another config \(seed: 0 -> 1\)"):
        prepare(copy, runs.build(other))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="workdir must be a folder that can be written to"):
        prepare(tmp_path / "file", runs.build(small_config))


def test_a_run_that_is_not_finished_is_nothing_to_start_from_and_is_exported_with_a_warning(copy, small_config, capsys):
    content = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**content, "epochs": 9}))
    said = r"the run in .*copy is not finished, 2 of 9 epochs are done"
    for group, field in (((), "init_from"), (("evaluation",), "surrogate")):
        config = small_config.copy_and_resolve_references()
        functools.reduce(getattr, group, config)[field] = str(copy)
        with pytest.raises(InputError, match="^" + r"\.".join([*group, field]) + f": {said}"):
            runs.build(config)
    assert cli.guarded(export._command, ["", f"--workdir={copy}", "--format=orbax"]) == 0
    assert re.search(f"warning: {said}", capsys.readouterr().out)
    assert re.search(f"- warning: {said}", (copy / "export/orbax/model_card.md").read_text())


def test_a_surrogate_is_loaded_before_anything_is_trained(copy, small_config):
    config = small_config.copy_and_resolve_references()
    config.evaluation.surrogate = str(copy)
    _, variables = runs.build(config).surrogate
    assert advjax.evaluate.params_sha256(variables) == advjax.evaluate.params_sha256(advjax.load_run(copy)[1])
    described = json.loads((copy / "data.json").read_text())
    (copy / "data.json").write_text(json.dumps({**described, "image_shape": [8, 8, 1]}))
    with pytest.raises(
        InputError, match=r"^evaluation\.surrogate: the run in .*copy has 3 classes and images \(8, 8, 1\)"
    ):
        runs.build(config)


@pytest.mark.parametrize("field", ["init_from", "evaluation.surrogate", "data.path"])
def test_names_that_no_file_can_have(small_config, field):
    config = small_config.copy_and_resolve_references()
    *group, name = field.split(".")
    functools.reduce(getattr, group, config)[name] = "x" * 400
    with pytest.raises(InputError, match=f"^{field}"):
        runs.build(config)
    assert not is_finished(pathlib.Path("x" * 400), runs.read(small_config))
