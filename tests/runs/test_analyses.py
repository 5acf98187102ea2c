"""Analyses of runs, on folders with checkpoints that no training made; and their figures."""

import numpy as np
import pytest

from advjax import runs
from advjax.errors import InputError
from advjax.runs import analyses, figures, tables, workdir
from advjax.runs.train import first_state, make_trainer
from advjax.training.checkpoints import Checkpoints
from tests.runs.test_tables import AHEAD, AT


@pytest.fixture
def untrained(small_config, tmp_path):
    """Makes the folder of a run of a method that stands where it began: `(method, change of the state, fields)`."""

    def make(method, change=lambda state, dataset: state, **fields):
        config = small_config.copy_and_resolve_references()
        other = runs.default(method)
        config.method, config.networks, config.teachers = other.method, other.networks, other.teachers
        config.epochs, config.checkpoint.every = 1, 1
        config.update_from_flattened_dict(fields)
        experiment, folder = runs.build(config), tmp_path / method
        workdir.prepare(folder, experiment)
        state = first_state(make_trainer(experiment), experiment)
        checkpoints = Checkpoints(folder / "checkpoints", 2, experiment.steps_per_epoch)
        checkpoints.save(experiment.steps_per_epoch, change(state, experiment.dataset))
        checkpoints.close()
        return folder, experiment

    return make


def test_a_memory_with_the_right_labels_corrects_all_noise(untrained, tmp_path):
    true = {}

    def corrected(state, dataset):
        base, _ = state.method.per_example
        brightest = dataset.train.image.astype(int).sum((2, 3)).argmax(1)  # the class, see `bright_rows`
        true["wrong"] = (brightest != dataset.train.label).sum()
        return state.replace(method=state.method._replace(per_example=(base, np.eye(3, dtype=np.float32)[brightest])))

    folder, _ = untrained("sglr", corrected, **{"data.label_noise": 0.5})
    (record,) = analyses.label_noise(folder, examples=20)
    assert true["wrong"] > 20 and record["epoch"] == 1
    assert (record["clean"], record["fitted"], record["corrected"]) == (1.0, 0.0, 1.0)
    assert record["clean_norm_refined"] == pytest.approx(record["clean_norm"], rel=1e-5)
    assert abs(record["noisy_norm_refined"] - record["noisy_norm"]) > 1e-3
    figures.label_noise([record], tmp_path / "noise.png")
    figures.label_noise([{key: record[key] for key in ("epoch", "clean_norm", "noisy_norm")}], tmp_path / "at.png")
    with pytest.raises(InputError, match="no wrong labels"):
        analyses.label_noise(untrained("te")[0])


def test_peers_and_teachers(untrained, tmp_path):
    folder, _ = untrained("mat")
    names, matrix = analyses.peer_transfer(folder)
    assert names == ["peer0", "peer1"] and matrix.shape == (2, 2) and (matrix <= 1).all()
    figures.transfer(names, matrix, tmp_path / "transfer.png")
    teacher, _ = untrained("pgd_at")
    with pytest.raises(InputError, match="one network alone, model"):
        analyses.peer_transfer(teacher)
    with pytest.raises(InputError, match="no teachers"):
        analyses.teacher_entropies(teacher)
    taught, _ = untrained("ard", teachers={"robust": {"path": str(teacher)}})
    found = analyses.teacher_entropies(taught, examples=20)
    assert set(found) == {"robust", "student"} and found["robust"]["adversarial"].shape == (20,)
    for values in (values for each in found.values() for values in each.values()):
        assert values.min() > 0 and values.max() <= np.log(3) + 1e-5
    figures.entropies(found, tmp_path / "entropies.png")
    figures.sweep(tables.summarise([*AT, *AHEAD], "pgd_at"), tmp_path / "sweep.png")
    assert all((tmp_path / f"{name}.png").stat().st_size > 1000 for name in ("transfer", "entropies", "sweep"))
