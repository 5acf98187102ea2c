"""What is to be run: every sweep is an ordered list of members, each a name and a config.

A member's name is METHOD-SEED or METHOD-OPTION-SEED; its folder under the sweep's root has that name, and members that
are taught by others name their folders, so the order is that of need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from advjax import runs
from experiments.configs import common


class Member(NamedTuple):
    """One run of a sweep.

    Attributes:
        name: its folder's name.
        label: its row in the table, without the seed.
        seed: its seed.
        config: what is run.
    """

    name: str
    label: str
    seed: int
    config: ConfigDict


def cifar10(root: str) -> list[Member]:
    """Scale A: all of CIFAR-10 on two cores, a ResNet-18 of width 8 (176,402 parameters), 12 epochs, one recipe.

    The budget: a PGD-7 step on 128 images takes 0.3 to 0.4 s on two cores, an epoch of 383 steps two to three minutes;
    AutoAttack on 1,000 images about ten minutes for each of the best and the last checkpoint. With the teachers, twice
    as wide, the whole is about 35 hours.

    Chosen for all: l_inf 8/255, 7 steps of 2/255, batch 128, SGD 0.1 rising linearly to 40 % of the run and falling to 0,
    weight decay 5e-4, crop and flip, 1,000 images held out. The distillation losses that are means over the classes are
    multiplied by ten, as on CIFAR-100 (`scale`), since 12 epochs at a tenth of the gradient teach next to nothing.
    """

    def recipe(method: str, *, width: int = 8, **hyperparameters: Any) -> ConfigDict:
        config = common.get_config(method, **hyperparameters)
        config.epochs = 12
        config.network.update({"name": "resnet18", "width": width})
        config.data.path = "data/cifar10"
        config.attack.update({"eps": "8/255", "step_size": "2/255", "steps": 7})
        config.schedule.update({"name": "cyclic", "peak_at": 0.4})
        config.validation.steps = 7
        config.log.tensorboard = False
        config.evaluation.update({"protocol": "standard", "examples": 1000})
        return config

    def taught(method: str, seed: int, **hyperparameters: Any) -> ConfigDict:
        config = recipe(method, **hyperparameters)
        for role in ("clean", "robust"):
            config.teachers[role] = common.teacher(recipe("natural", width=16))
            config.teachers[role].path = f"{root}/teacher_{role}-0"
        return config

    def quick(config: ConfigDict) -> ConfigDict:
        config.evaluation.protocol = "fast"
        return config

    first = [
        ("pgd_at", (0,), lambda s: recipe("pgd_at", clean_statistics=False)),
        ("natural", (0,), lambda s: quick(recipe("natural"))),
        ("trades", (0,), lambda s: recipe("trades")),
        ("sglr", (0,), lambda s: recipe("sglr")),
        ("dynat", (0,), lambda s: recipe("dynat")),
        ("teacher_clean", (0,), lambda s: quick(recipe("natural", width=16))),
        ("teacher_robust", (0,), lambda s: quick(recipe("trades", width=16))),
        ("bmtard", (0,), lambda s: taught("bmtard", s, scale=10.0)),
        ("mart", (0,), lambda s: recipe("mart")),
        ("mtard", (0,), lambda s: taught("mtard", s, scale=10.0)),
        ("pgd_at", (1, 2), lambda s: recipe("pgd_at", clean_statistics=False)),
        ("sglr", (1, 2), lambda s: recipe("sglr")),
        ("dynat", (1, 2), lambda s: recipe("dynat")),
        ("bmtard", (1, 2), lambda s: taught("bmtard", s, scale=10.0)),
        ("trades", (1,), lambda s: recipe("trades")),
        ("natural", (1,), lambda s: quick(recipe("natural"))),
        ("mart", (1,), lambda s: recipe("mart")),
        ("mtard", (1,), lambda s: taught("mtard", s, scale=10.0)),
    ]
    return members(first)


def members(rows: list[tuple[str, tuple[int, ...], Callable[[int], ConfigDict]]]) -> list[Member]:
    """(label, seeds, config of a seed) as members, in order."""
    made = []
    for label, seeds, make in rows:
        for seed in seeds:
            config = make(seed)
            config.seed = seed
            runs.read(config)
            made.append(Member(f"{label}-{seed}", label, seed, config))
    return made


SWEEPS: dict[str, Callable[[str], list[Member]]] = {"cifar10": cifar10}
