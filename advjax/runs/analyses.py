"""The questions of `advjax.evaluate.analyses`, asked of finished runs. `advjax.runs.figures` draws what they give.

figures.label_noise(analyses.label_noise("runs/sglr"), "noise.png")         # data.label_noise, checkpoint.every
figures.entropies(analyses.teacher_entropies("runs/bmtard"), "entropies.png")
figures.transfer(*analyses.peer_transfer("runs/mat"), "transfer.png")
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from advjax import models
from advjax.attacks import pgd
from advjax.data import Split, to_float
from advjax.errors import InputError
from advjax.evaluate import analyses
from advjax.evaluate.protocols import LogitsFn
from advjax.numbers import number
from advjax.runs.build import build, load_parts
from advjax.runs.schema import Config
from advjax.runs.train import first_state, make_trainer
from advjax.runs.workdir import choose, load_run, open_checkpoints, read_config

Folder = str | os.PathLike[str]


def label_noise(workdir: Folder, *, examples: int = 256, network: str | None = None) -> list[dict[str, float]]:
    """What a run makes of wrong labels, at every checkpoint that it kept: SGLR's claims.

    The run is one with `data.label_noise` above 0, and with `checkpoint.every` so that there is a course to be seen.

    Args:
        workdir: the run's folder.
        examples: how many training images, half of them with wrong labels, in the data's order.
        network: name in the run's method; the first that it evaluates if absent.

    Returns:
        One record per checkpoint: `epoch`; `clean_norm` and `noisy_norm`, mean norm of an example's gradient of
        CE(f(x'), y) for right and for wrong labels y, x' from the run's attack on the network as it is then. Where the
        method remembers predictions (SGLR, TE), too: `clean_norm_refined` and `noisy_norm_refined`, the same with the
        memory in the label's place, and of the memory of all images `clean`, `fitted` and `corrected`
        (`analyses.memory_agreement`).

    Raises:
        InputError: no run, no wrong labels, no such network.
    """
    experiment = build(read_config(workdir))
    config, train = experiment.config, experiment.dataset.train
    name = choose(experiment.method, network, workdir)
    true = load_parts(
        dataclasses.replace(config, data=dataclasses.replace(config.data, label_noise=0.0))
    ).dataset.train.label
    wrong = np.flatnonzero(train.label != true)
    if not len(wrong):
        raise InputError(f"the run in {workdir} has no wrong labels: train with --config.data.label_noise=0.2, say")
    right = np.setdiff1d(np.arange(len(true)), wrong)
    rows = np.concatenate([right[: examples // 2], wrong[: examples // 2]])
    noisy = np.isin(rows, wrong)
    part, module = Split(train.image[rows], train.label[rows]), experiment.modules[name]
    like = jax.eval_shape(lambda: first_state(make_trainer(experiment), experiment))
    records, checkpoints = [], open_checkpoints(workdir)
    try:
        for step in checkpoints.all:
            state = checkpoints.restore(step, like)
            params, stats = state.params[name], state.stats[name]
            x_adv = _attacked(models.logits_fn(module, _variables(params, stats)), part, config)
            record = {"epoch": step / experiment.steps_per_epoch}
            memory = _memory(state.method.per_example, (len(train.label), experiment.dataset.num_classes))
            for target, ending in ((part.label, ""), *(((memory[rows], "_refined"),) if memory is not None else ())):
                norms = analyses.gradient_norms(_apply(module, stats), params, x_adv, target)
                record |= {f"clean_norm{ending}": norms[~noisy].mean(), f"noisy_norm{ending}": norms[noisy].mean()}
            if memory is not None:
                record |= analyses.memory_agreement(memory, train.label, true)._asdict()
            records.append({key: float(value) for key, value in record.items()})
    finally:
        checkpoints.close()
    return records


def teacher_entropies(workdir: Folder, *, examples: int = 1000, test: bool = False) -> dict[str, dict[str, np.ndarray]]:
    """How much a run's teachers have to say beyond a label (B-MTARD, SAAD).

    Args:
        workdir: folder of a finished run of a method with teachers.
        examples: the first images.
        test: of the test set instead of the training set, which is where they teach.

    Returns:
        Teacher's role, and `student` -> `clean`, `adversarial`: entropies [N] in nats. The adversarial images are the
        student's, by its own attack settings (PGD on the cross-entropy), as they are when it is taught.

    Raises:
        InputError: no run, or one without teachers.
    """
    experiment = build(read_config(workdir))
    if not experiment.teachers:
        raise InputError(f"the run in {workdir} has no teachers")
    split = experiment.dataset.test if test else experiment.dataset.train
    part = Split(*(array[:examples] for array in split))
    student = models.logits_fn(*load_run(workdir, checkpoint="last"))
    networks = {
        teacher.role: models.logits_fn(*_taught(teacher, pathlib.Path(workdir)))
        for teacher in experiment.teachers.values()
    }
    x_adv = _attacked(student, part, experiment.config)
    return {
        name: {
            "clean": analyses.prediction_entropies(f, part.image),
            "adversarial": analyses.prediction_entropies(f, x_adv),
        }
        for name, f in {**networks, "student": student}.items()
    }


def peer_transfer(workdir: Folder, *, examples: int = 1000, checkpoint: str = "last") -> tuple[list[str], np.ndarray]:
    """What adversarial examples of one network of a run do to the others (MAT).

    Args:
        workdir: folder of a finished run that evaluates several networks.
        examples: the first test images.
        checkpoint: `"last"` or `"best"`.

    Returns:
        The networks' names, and `analyses.transfer_matrix` by PGD-20 with steps of eps/4.

    Raises:
        InputError: no run, or one that evaluates a single network.
    """
    experiment = build(read_config(workdir))
    names = list(experiment.method.evaluated)
    if len(names) < 2:
        raise InputError(
            f"the run in {workdir} evaluates one network alone, {names[0]}: there is nothing to transfer to"
        )
    networks = {name: models.logits_fn(*load_run(workdir, name, checkpoint)) for name in names}
    part = Split(*(array[:examples] for array in experiment.dataset.test))
    craft = _pgd(experiment.norm, experiment.eps, experiment.eps / 4, 20, experiment.config.evaluation.seed)
    return names, analyses.transfer_matrix(networks, craft, *part)


def _pgd(norm: str, eps: float, step_size: float, steps: int, seed: int) -> Callable[..., jax.Array]:
    def craft(logits_fn: LogitsFn, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        key = jax.random.key(seed)
        return pgd(logits_fn, key, x, y, norm=norm, eps=eps, step_size=step_size, steps=steps, ids=ids)

    return craft


def _attacked(logits_fn: LogitsFn, part: Split, config: Config, batch_size: int = 256) -> np.ndarray:
    """PGD with the settings of the training's attack, whatever the method makes of them."""
    attack, ids = config.attack, np.arange(len(part.label), dtype=np.int32)
    craft = _pgd(attack.norm, number(attack.eps), number(attack.step_size), attack.steps, config.evaluation.seed)
    made = [
        craft(logits_fn, to_float(part.image[rows]), part.label[rows], rows)
        for rows in np.split(ids, range(batch_size, len(ids), batch_size))
    ]
    return np.concatenate(jax.device_get(made))


def _variables(params: Any, stats: Any) -> dict[str, Any]:
    return {"params": params, "batch_stats": stats}


def _apply(module: nn.Module, stats: Any) -> analyses.Apply:
    return lambda params, x: models.logits_fn(module, _variables(params, stats))(x)


def _memory(per_example: Any, shape: tuple[int, int]) -> np.ndarray | None:
    """The predictions that a method remembers, [N, K], whatever wrappers are around it."""
    return next((np.asarray(leaf) for leaf in jax.tree.leaves(per_example) if leaf.shape == shape), None)


def _taught(teacher: Any, workdir: pathlib.Path) -> tuple[nn.Module, Any]:
    if teacher.variables is not None:
        return teacher.module, teacher.variables
    return load_run(workdir / teacher.source, teacher.member or None, teacher.checkpoint)
