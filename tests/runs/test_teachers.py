"""Teachers: trained first, from a run, from a weights file; what is refused, and when."""

import copy
import itertools
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from advjax import evaluate, load_run, models
from advjax.configs import bmtard, natural
from advjax.errors import InputError
from advjax.runs import build, finish, schema, teachers
from advjax.runs.display import Display
from advjax.runs.estimate import with_stand_ins
from advjax.runs.finish import TEACHERS, prepare_teachers
from advjax.runs.metrics import read_metrics
from advjax.runs.train import first_state, make_trainer
from advjax.training.checkpoints import Checkpoints


def plain(config):
    """A config as plain values."""
    return schema.plain(schema.read(config))


def make_config(**paths):
    """B-MTARD on digits with two teachers, two epochs each, made small; keywords are the teachers' paths."""
    config = plain(bmtard.get_config("digits"))
    training = [config, *(config["teachers"][role]["train"] for role in ("clean", "robust"))]
    for each in training:
        each["epochs"] = 2
        each["attack"]["steps"] = each["validation"]["steps"] = 1
        each["validation"]["every"] = 2
    for network in (config["network"], *(config["teachers"][role]["network"] for role in ("clean", "robust"))):
        network["width"] = 8
    for role, path in paths.items():
        config["teachers"][role]["path"] = str(path)
    config["evaluation"] |= {"examples": 40, "protocol": "clean"}
    config["log"]["tensorboard"] = False
    return config


def run(config, workdir):
    """The whole run."""
    return finish(config, workdir, Display(live=False))


def figures(report):
    """A report without what may differ between two runs."""
    report = copy.deepcopy(report)
    for row in report["results"]:
        row.pop("seconds")
    return report


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("run") / "bmtard"


@pytest.fixture(scope="module")
def report(workdir):
    """Of a run that trained its teachers first and was interrupted while it trained the second."""
    config, save, saves = make_config(), Checkpoints.save, itertools.count(1)

    def interrupted(self, *args, **kwargs):
        if (workdir / "teachers" / "robust").exists() and next(saves) == 2:
            raise KeyboardInterrupt
        save(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(config, workdir)
    known = json.loads((workdir / TEACHERS).read_text())
    assert set(known) == {"clean"}
    assert not (workdir / "metrics.jsonl").exists()
    return run(config, workdir)


def test_a_run_that_names_no_teacher_trains_both_first(report, workdir):
    assert [record["epoch"] for record in read_metrics(workdir / "teachers" / "robust" / "metrics.jsonl")] == [1, 2]
    assert set(report["teachers"]) == {"clean", "robust"}
    for role, method in (("clean", "natural"), ("robust", "trades")):
        _, variables = load_run(workdir / "teachers" / role)
        said = report["teachers"][role]
        assert said["params_sha256"] == evaluate.params_sha256(variables)
        assert (said["trained_by"], said["architecture"], said["source"]) == (method, "tiny_cnn", f"teachers/{role}")
        assert (said["attack"], said["n"]) == ("pgd20", 360)
        assert 0.5 < said["clean_accuracy"] <= 1
    robust, clean = report["teachers"]["robust"], report["teachers"]["clean"]
    assert robust["robust_accuracy"] > clean["robust_accuracy"]
    assert 0 < robust["robust_training_accuracy"] < 0.95 and "robust_training_accuracy" not in clean
    assert robust["warnings"] == [warning for warning in report["warnings"] if "teacher robust" in warning]
    page = (workdir / "report.md").read_text()
    assert report["teachers"]["robust"]["params_sha256"][:12] in page


def test_teachers_share_the_students_data_but_not_its_first_parameters(report, workdir):
    folders = [workdir, workdir / "teachers" / "clean", workdir / "teachers" / "robust"]
    splits = [json.loads((folder / "data.json").read_text())["validation_index"] for folder in folders]
    assert splits[0] == splits[1] == splits[2]
    assert len({json.loads((folder / "config.json").read_text())["seed"] for folder in folders}) == 3


def test_a_student_never_starts_as_a_teacher_of_its_own_seed_did():
    alone = plain(natural.get_config("digits"))
    alone["network"]["width"] = 8
    kernels = [
        first_state(make_trainer(build(config)), build(config)).params[name]["conv1"]["kernel"]
        for config, name in ((make_config(), "student"), (alone, "model"))
    ]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.01


def test_teachers_are_not_in_the_students_checkpoint(report, workdir):
    checkpoints = Checkpoints(workdir / "checkpoints")
    saved = checkpoints.restore_networks(checkpoints.last)
    checkpoints.close()
    assert set(saved["params"]) == set(saved["stats"]) == {"student"}


def test_given_by_folder_the_same_teachers_make_the_same_student(report, workdir, tmp_path):
    given = {role: workdir / "teachers" / role for role in ("clean", "robust")}
    again = run(make_config(**given), tmp_path / "again")
    assert again["networks"] == report["networks"]
    for role in given:
        for quantity in ("params_sha256", "clean_accuracy", "robust_accuracy", "architecture"):
            assert again["teachers"][role][quantity] == report["teachers"][role][quantity]
    assert not (tmp_path / "again" / "teachers").exists()


def test_given_by_file(report, workdir, tmp_path):
    pytest.importorskip("torch", reason="needs the extra 'torch'")
    module, variables = load_run(workdir / "teachers" / "clean")
    models.save_torch(tmp_path / "clean.pt", module, variables)
    experiment = build(make_config(clean=tmp_path / "clean.pt"))
    found = experiment.teachers["clean_teacher"]
    assert evaluate.params_sha256(found.variables) == report["teachers"]["clean"]["params_sha256"]
    assert set(experiment.frozen) == {"clean_teacher"}
    stand_ins = with_stand_ins(experiment).frozen
    shapes = jax.tree.map(np.shape, models.variable_shapes(experiment.modules["robust_teacher"], (8, 8, 1)))
    assert jax.tree.map(np.shape, stand_ins["robust_teacher"]) == shapes


def test_another_teacher_than_before_is_refused(report, workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "moved")
    config = make_config(clean=workdir / "teachers" / "robust", robust=workdir / "teachers" / "robust")
    experiment = build(config)
    with pytest.raises(InputError, match=r"teachers\.clean: this run began with the teacher"):
        prepare_teachers(experiment, tmp_path / "moved", Display(live=False))


def altered(source, target, name, **fields):
    """A copy of a run with other fields in one of its JSON files."""
    shutil.copytree(source, target)
    content = json.loads((target / name).read_text())
    (target / name).write_text(json.dumps({**content, **fields}))
    return target


def test_what_does_not_fit_is_refused_before_anything_is_trained(report, workdir, tmp_path):
    clean = workdir / "teachers" / "clean"
    (tmp_path / "noise.pt").write_bytes(b"noise")
    cases = [
        (make_config(clean=tmp_path / "nothing"), r"teachers\.clean\.path must be the folder .* nothing at"),
        (make_config(clean=tmp_path), r"is not the folder of a run"),
        (make_config(clean=tmp_path / "noise.pt"), r"teachers\.clean\.path, teachers\.clean\.network"),
        (
            make_config(clean=altered(clean, tmp_path / "five", "data.json", num_classes=5)),
            r"has 5 classes and images \(8, 8, 1\), the data has 10 classes",
        ),
        (
            make_config(clean=altered(clean, tmp_path / "large", "data.json", image_shape=[32, 32, 3])),
            r"images \(32, 32, 3\), the data has 10 classes and images \(8, 8, 1\)",
        ),
        (
            make_config(clean=altered(clean, tmp_path / "short", "config.json", epochs=9)),
            r"teachers\.clean\.path: the run in .* is not finished, 2 of 9 epochs",
        ),
    ]
    for path, value, message in (
        (("clean", "checkpoint"), "first", r"teachers\.clean\.checkpoint must be a checkpoint.*best, last"),
        (("clean", "network"), {"name": "resnet19"}, r"teachers\.clean\.train: network: unknown network.*resnet18"),
        (("robust", "train", "epochs"), 0, r"teachers\.robust\.train: epochs must be between 1"),
        (("robust", "train", "method"), {"name": "trads"}, r"teachers\.robust\.train: .*did you mean trades"),
        (("cleen",), {}, r"teachers\.cleen.*did you mean teachers\.clean"),
    ):
        config = make_config()
        place = config["teachers"]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        cases.append((config, message))
    for config, message in cases:
        with pytest.raises(InputError, match=message):
            build(config)
    config = make_config()
    del config["teachers"]["robust"]
    with pytest.raises(InputError, match=r"teachers\.robust is missing: this method needs the teachers clean, robust"):
        build(config)


def test_a_teacher_near_chance_is_refused_before_the_other_is_trained(tmp_path):
    pytest.importorskip("torch", reason="needs the extra 'torch'")
    module = models.create("tiny_cnn", 10, width=8)
    models.save_torch(tmp_path / "fresh.pt", module, models.init(module, jax.random.key(0), (8, 8, 1)))
    experiment = build(make_config(robust=tmp_path / "fresh.pt"))
    with pytest.raises(InputError, match=r"teachers\.robust: its accuracy on clean images is .*near chance"):
        prepare_teachers(experiment, tmp_path, Display(live=False))
    assert not pathlib.Path(tmp_path / "teachers").exists()


def test_a_robust_teacher_without_robustness_is_a_warning():
    record = {"attack": "pgd20", "robust_accuracy": 0.05}
    assert teachers.doubts({"clean": record}, 10) == []
    assert "teacher robust" in teachers.doubts({"robust": record}, 10)[0]
    assert teachers.doubts({"robust": {**record, "robust_accuracy": 0.3}}, 10) == []
    fitted = {**record, "robust_accuracy": 0.6, "robust_training_accuracy": 0.981}
    assert "on training images is 98.10%" in teachers.doubts({"robust": fitted}, 10)[0]
    assert teachers.doubts({"robust": {**fitted, "robust_training_accuracy": 0.9}, "clean": fitted}, 10) == []


def test_a_published_teacher_by_name(test_data, tmp_path):
    """TRADES' MNIST network, whose images are not those of digits."""
    pytest.importorskip("torch", reason="needs the extra 'torch'")
    config = make_config(robust=test_data / "weights" / "trades_mnist_smallcnn.pt")
    config["teachers"]["robust"]["network"]["name"] = "trades_mnist"
    message = (
        r"teachers\.robust\.network: trades_mnist has 10 classes and images \(28, 28, 1\), the data has 10 classes and"
    )
    with pytest.raises(InputError, match=message):
        build(config)
    config["teachers"]["robust"]["network"]["name"] = "small_cnn"
    with pytest.raises(InputError, match=r"teachers\.robust\.network: small_cnn needs images of at least 16 x 16"):
        build(config)
    config["teachers"]["robust"]["network"]["name"] = "trades_mnist"
    rng = np.random.default_rng(0)
    arrays = {"image": rng.integers(0, 256, (160, 28, 28, 1)).astype(np.uint8), "label": np.arange(160) % 10}
    for part in ("train", "test"):
        np.savez(tmp_path / f"{part}.npz", **arrays)
    config["data"].update({"name": "mnist", "path": str(tmp_path), "validation": 10})
    config["network"]["name"] = config["teachers"]["clean"]["network"]["name"] = "small_cnn"
    found = build(config).teachers["robust_teacher"]
    assert (found.architecture, found.variables["params"]["fc3"]["kernel"].shape) == ("small_cnn", (200, 10))
