"""What is to be run: every sweep is an ordered list of members, each a name and a config.

A member's name is METHOD-SEED or METHOD-OPTION-SEED; its folder under the sweep's root has that name, and members that
are taught by others name their folders, so the order is that of need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from advjax import runs
from advjax.configs import common
from advjax.runs.sweep import Member


def cifar10(root: str) -> list[Member]:
    """Scale A: CIFAR-10 on two cores, a ResNet-18 of width 8 (176,402 parameters), 20,000 images, 15 epochs, one recipe.

    The budget: a PGD-7 step on 128 images took 0.42 s while other work ran, 149 of them an epoch; AutoAttack on 1,000
    images took 22 minutes then. Estimated for the whole, with the teachers, twice as wide: 25 hours. Twelve epochs of
    all images (588,000 instead of 285,000 seen) were begun with, and given up after one run of 100 minutes.

    Chosen for all: l_inf 8/255, 7 steps of 2/255, batch 128, SGD 0.1 rising linearly to 40 % of the run and falling to 0,
    weight decay 5e-4, crop and flip, 1,000 images held out. The distillation losses that are means over the classes are
    multiplied by ten, as on CIFAR-100 (`scale`), since 15 epochs at a tenth of the gradient teach next to nothing.
    """

    def recipe(method: str, *, width: int = 8, **hyperparameters: Any) -> ConfigDict:
        config = common.get_config(method, **hyperparameters)
        config.epochs = 15
        config.network.update({"name": "resnet18", "width": width})
        config.data.update({"path": "data/cifar10", "examples": 20_000})
        config.attack.update({"eps": "8/255", "step_size": "2/255", "steps": 7})
        config.schedule.update({"name": "cyclic", "peak_at": 0.4})
        config.validation.steps = 7
        config.log.tensorboard = False
        config.evaluation.update({"protocol": "standard", "examples": 1000})
        return config

    def taught(method: str, *roles: str, **hyperparameters: Any) -> ConfigDict:
        config = recipe(method, **hyperparameters)
        for role in roles or ("clean", "robust"):
            config.teachers[role] = common.teacher(recipe("natural", width=16))
            config.teachers[role].path = f"{root}/teacher_{role}-0"
        return config

    def quick(config: ConfigDict) -> ConfigDict:
        config.evaluation.protocol = "fast"
        return config

    at, sglr, dynat = recipe("pgd_at", clean_statistics=False), recipe("sglr"), recipe("dynat")
    natural, trades, mart = quick(recipe("natural")), recipe("trades"), recipe("mart")
    bmtard, mtard = taught("bmtard", scale=10.0), taught("mtard", scale=10.0)
    mat, exchange = recipe("mat"), recipe("mat", form="exchange")
    rows = [
        ("pgd_at", (0,), at),
        ("natural", (0,), natural),
        ("trades", (0,), trades),
        ("sglr", (0,), sglr),
        ("dynat", (0,), dynat),
        ("teacher_clean", (0,), quick(recipe("natural", width=16))),
        ("teacher_robust", (0,), quick(recipe("trades", width=16))),
        ("bmtard", (0,), bmtard),
        ("mat", (0,), mat),
        ("mart", (0,), mart),
        ("mtard", (0,), mtard),
        ("pgd_at", (1, 2), at),
        ("sglr", (1, 2), sglr),
        ("dynat", (1, 2), dynat),
        ("bmtard", (1, 2), bmtard),
        ("mat", (1, 2), mat),
        ("mat-exchange", (0, 1), exchange),
        ("ard", (0, 1), taught("ard", "robust", temperature=5.0)),
        ("rslad", (0, 1), taught("rslad", "robust", scale=10.0)),
        ("adaad", (0, 1), taught("adaad", "robust", reduction="batch")),
        ("lbgat", (0, 1), recipe("lbgat", beta=6.0)),
        ("trades", (1,), trades),
        ("natural", (1,), natural),
        ("mart", (1,), mart),
        ("mtard", (1,), mtard),
    ]
    return members(rows)


def _mnist(method: str, *, width: int = 16, **hyperparameters: Any) -> ConfigDict:
    """Scale B: MNIST, `small_cnn` of width 16 (half the published one), 10,000 images for 5 epochs, 500 held out.

    Chosen for all: batch 64, AdamW 0.003 without weight decay, rising linearly to a fifth of the run and falling to 0;
    with SGD 0.1 adversarial training at 0.3 stayed on the plateau of chance. Radius and step grow over two epochs:
    without, a method's score was how soon it left that plateau (DYNAT, whose first labels are wrong, after two epochs:
    clean 94.8, AutoAttack `fast` 40.0, seed 0). 920 images/s on one core with PGD-7.
    """
    config = common.get_config(method, **hyperparameters)
    config.epochs, config.batch_size = 5, 64
    config.data.update({"name": "mnist", "path": "data/mnist.npz", "augment": "none", "examples": 10_500})
    config.data.validation = 500
    config.network.update({"name": "small_cnn", "width": width})
    config.optimizer.update({"name": "adamw", "learning_rate": 0.003, "weight_decay": 0.0})
    config.schedule.update({"name": "cyclic", "peak_at": 0.2})
    config.attack.update({"eps": "0.3", "step_size": "0.075", "steps": 7, "warmup": 0.4})
    config.validation.steps = 10
    config.log.tensorboard = False
    config.evaluation.update({"protocol": "fast", "examples": 500, "train_examples": 0})
    return config


def _taught(robust: str, clean: str, method: str, **hyperparameters: Any) -> ConfigDict:
    """MNIST with the runs in these folders as teachers; without a folder, without that teacher."""
    config = _mnist(method, **hyperparameters)
    for role, path in (("clean", clean), ("robust", robust)):
        if path:
            config.teachers[role] = common.teacher(_mnist("natural", width=32))
            config.teachers[role].path = path
    return config


def mnist(root: str) -> list[Member]:
    """MNIST at l_inf 0.3: what every method does, one recipe, seed 0 of all before the others.

    The teachers are twice as wide. The distillation losses that are means over the classes are multiplied by ten, TE's
    weight is what it is on digits.
    """
    robust, clean = f"{root}/teacher_robust-0", f"{root}/teacher_clean-0"
    rows = [
        ("pgd_at", _mnist("pgd_at")),
        ("natural", _mnist("natural")),
        ("trades", _mnist("trades")),
        ("sglr", _mnist("sglr")),
        ("dynat", _mnist("dynat")),
        ("bmtard", _taught(robust, clean, "bmtard", scale=10.0)),
        ("mat", _mnist("mat")),
        ("mat-exchange", _mnist("mat", form="exchange")),
        ("mtard", _taught(robust, clean, "mtard", scale=10.0)),
        ("mart", _mnist("mart")),
        ("lbgat", _mnist("lbgat", beta=6.0)),
        ("te", _mnist("te", weight=30.0)),
        ("ard", _taught(robust, "", "ard", temperature=5.0)),
        ("rslad", _taught(robust, "", "rslad", scale=10.0)),
        ("adaad", _taught(robust, "", "adaad", reduction="batch")),
    ]
    teachers = [
        ("teacher_clean", (0,), _mnist("natural", width=32)),
        ("teacher_robust", (0,), _mnist("trades", width=32)),
    ]
    return members([*teachers, *((label, (seed,), config) for seed in (0, 1, 2) for label, config in rows)])


def mnist_pgd100(root: str) -> list[Member]:
    """MAT's eight points over PGD-AT under PGD-100: those rows of `mnist`, trained as there, evaluated by it."""
    del root
    rows = [("pgd_at", _mnist("pgd_at")), ("mat", _mnist("mat")), ("mat-exchange", _mnist("mat", form="exchange"))]
    for _, config in rows:
        config.evaluation.protocol = "experiments.evidence.protocols:pgd100"
    return members([(label, (seed,), config) for seed in (0, 1, 2) for label, config in rows])


def mnist_claims(root: str) -> list[Member]:
    """The parts of the four methods, each changed alone: beside the rows of the sweep `mnist`, whose recipe it is.

    The stronger teachers of B-MTARD are those of `mnist`, twice as wide as the student; the weaker ones as wide as it.
    """
    strong = (f"{root}/teacher_robust-0", f"{root}/teacher_clean-0")
    weak = (f"{root}/teacher_robust_weak-0", f"{root}/teacher_clean_weak-0")
    teachers = [
        ("teacher_clean", (0,), _mnist("natural", width=32)),
        ("teacher_robust", (0,), _mnist("trades", width=32)),
        ("teacher_clean_weak", (0,), _mnist("natural")),
        ("teacher_robust_weak", (0,), _mnist("trades")),
    ]
    rows = [
        ("dynat-true_labels", _mnist("dynat", labels="true")),
        ("dynat-kl_inner", _mnist("dynat", inner="kl")),
        ("sglr-r_0.5", _mnist("sglr", r=0.5)),
        ("sglr-alpha_0.5", _mnist("sglr", alpha=0.5)),
        ("sglr-clean_weight_0", _mnist("sglr", clean_weight=0.0)),
        ("sglr-clean_weight_1", _mnist("sglr", clean_weight=1.0)),
        ("bmtard-fixed_temperatures", _taught(*strong, "bmtard", scale=10.0, temperature_balance=False)),
        ("bmtard-fixed_weights", _taught(*strong, "bmtard", scale=10.0, loss_balance=False)),
        ("bmtard-weaker_teachers", _taught(*weak, "bmtard", scale=10.0)),
        ("mat-a_0", _mnist("mat", a=0.0)),
        ("mat-a_0.8", _mnist("mat", a=0.8)),
        ("mat-3_peers", _mnist("mat", peers=3)),
    ]
    return members([*teachers, *((label, (seed,), config) for seed in (0, 1, 2) for label, config in rows)])


def overfitting(root: str) -> list[Member]:
    """Robust overfitting, where it can be had in minutes: 1,000 images of CIFAR-10 for 60 epochs, ResNet-18 of width 8.

    l_inf 8/255, 7 steps of 2/255, batch 100, SGD 0.1, weight decay 5e-4, x0.1 at half and three quarters, crop and flip.
    300 images are held out to choose the best epoch.
    """
    del root
    return members([(label, (seed,), config) for seed in (0, 1, 2) for label, config in _few_images("crop_flip")])


def overfitting_plain(root: str) -> list[Member]:
    """The same without crops and flips, which so small a network cannot overfit."""
    del root
    return members([(label, (seed,), config) for seed in (0, 1, 2) for label, config in _few_images("none")])


def _few_images(augment: str) -> list[tuple[str, ConfigDict]]:
    rows = []
    for method in ("pgd_at", "sglr", "dynat", "te"):
        config = common.get_config(method)
        config.epochs, config.batch_size = 60, 100
        config.network.update({"name": "resnet18", "width": 8})
        config.data.update({"path": "data/cifar10", "examples": 1300, "validation": 300, "augment": augment})
        config.attack.update({"eps": "8/255", "step_size": "2/255", "steps": 7, "statistics": "running"})
        config.validation.steps = 7
        config.log.tensorboard = False
        config.evaluation.update({"protocol": "quick", "examples": 1000})
        rows.append((method, config))
    return rows


def mnist_union(root: str) -> list[Member]:
    """MNIST under a union of norms, 0.3 (l_inf), 2 (l_2) and 10 (l_1): the recipe of `mnist`, ten steps of a fifth.

    The published recipe's 50 to 100 steps from a zero start are ten longer ones here, and the l_1 attack has no restart.
    """

    def recipe(method: str, **hyperparameters: Any) -> ConfigDict:
        config = _mnist(method, **hyperparameters)
        config.attack.update({"step_size": "0.06", "steps": 10, "start": "none"})
        if "l2" in config.method:
            config.method.l2.update({"eps": "2", "step_size": "0.4", "steps": 0})
            config.method.l1.update({"eps": "10", "step_size": "2", "steps": 0})
        if "restart" in config.method:
            config.method.restart = False
        config.evaluation.update({"protocol": "union", "examples": 250})
        config.evaluation.radii.update({"linf": "0.3", "l2": "2", "l1": "10"})
        return config

    p_2, p_1 = recipe("p_2"), recipe("p_1")
    p_2.attack.update({"norm": "l2", "eps": "2", "step_size": "0.4"})
    p_1.attack.update({"norm": "l1", "eps": "10", "step_size": "2"})
    rows = [
        ("p_inf", recipe("p_inf")),
        ("p_2", p_2),
        ("p_1", p_1),
        ("msd", recipe("msd")),
        ("mat", recipe("mat_union")),
        ("max", recipe("max")),
        ("avg", recipe("avg")),
        ("mat-exchange", recipe("mat_union", form="exchange")),
    ]
    return members([(label, (seed,), config) for seed in (0, 1, 2) for label, config in rows])


def h100(root: str) -> list[Member]:
    """CIFAR-10 on one H100: ResNet-18 in bfloat16, 19,000 images for 8 epochs, a row per paper in minutes.

    The folder `data/cifar10` held the shards `train_3`, `train_4` and `test` alone: the others did not arrive.
    B-MTARD is taught by the rows `natural` and `trades`.
    """
    return members([(label, (0,), config) for label, config in _h100_rows(root).items()])


def h100_full(root: str) -> list[Member]:
    """The same on the whole training set, with `autoattack_fast` in the evaluation."""
    rows = _h100_rows(root)
    for config in rows.values():
        config.evaluation.protocol = "fast"
    return members([(label, (0,), config) for label, config in rows.items()])


def _h100_rows(root: str) -> dict[str, ConfigDict]:
    """A config per paper, 8 epochs each."""
    bmtard = _h100("bmtard", 8, scale=10.0)
    for role, name in (("clean", "natural"), ("robust", "trades")):
        bmtard.teachers[role] = common.teacher(_h100("natural", 8))
        bmtard.teachers[role].path = f"{root}/{name}-0"
    methods = ("natural", "trades", "pgd_at", "sglr", "dynat", "mat")
    options = {"pgd_at": {"clean_statistics": False}}
    return {method: _h100(method, 8, **options.get(method, {})) for method in methods} | {"bmtard": bmtard}


def h100_whole(root: str) -> list[Member]:
    """The same on the whole training set for 20 epochs: PGD-AT and SGLR."""
    rows = [("pgd_at", (0,), _h100("pgd_at", 20, clean_statistics=False)), ("sglr", (0,), _h100("sglr", 20))]
    return members(rows)


def _h100(method: str, epochs: int, **hyperparameters: Any) -> ConfigDict:
    """l_inf 8/255, 10 steps of 2/255, batch 256, SGD 0.2 rising linearly to 40 % of the run and falling to 0."""
    config = common.get_config(method, **hyperparameters)
    config.epochs, config.precision, config.batch_size = epochs, "bfloat16", 256
    config.optimizer.learning_rate = 0.2
    config.network.update({"name": "resnet18"})
    config.data.path = "data/cifar10"
    config.attack.update({"eps": "8/255", "step_size": "2/255", "steps": 10})
    config.schedule.update({"name": "cyclic", "peak_at": 0.4})
    config.log.tensorboard = False
    config.evaluation.update({"protocol": "quick", "examples": 1000})
    return config


def members(rows: Sequence[tuple[str, tuple[int, ...], ConfigDict]]) -> list[Member]:
    """(label, seeds, config) as members, one per seed, in order."""
    made = []
    for label, seeds, base in rows:
        for seed in seeds:
            config = base.copy_and_resolve_references()
            config.seed = seed
            made.append(Member(f"{label}-{seed}", label, seed, runs.read(config)))
    return made


SWEEPS: dict[str, Callable[[str], list[Member]]] = {
    "cifar10": cifar10,
    "h100": h100,
    "h100_full": h100_full,
    "h100_whole": h100_whole,
    "mnist": mnist,
    "mnist_claims": mnist_claims,
    "mnist_pgd100": mnist_pgd100,
    "mnist_union": mnist_union,
    "overfitting": overfitting,
    "overfitting_plain": overfitting_plain,
}
