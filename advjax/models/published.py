"""Public networks that serve as teachers: what they are, where their authors publish them, what was reported of them.

Nothing is downloaded. Architectures, normalisation and figures are those of the sources named with each entry:

- robustbench: RobustBench's model zoo and `model_info` (github.com/RobustBench/robustbench, snapshot of 31 March 2025),
  which evaluated the clean accuracy and AutoAttack on the whole test set; it also hosts the files.
- deepmind: the tables in github.com/google-deepmind/deepmind-research/tree/master/adversarial_robustness.
- trades: the README of github.com/yaodongyu/TRADES.
- chenyaofo: the README and, for the normalisation, issues 4 and 8 of github.com/chenyaofo/pytorch-cifar-models.
- akamaster: the README of github.com/akamaster/pytorch_resnet_cifar10.
- mtard: the README of github.com/zhaoshiji123/MTARD; the accuracy is the one in the name of the file it loads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from advjax.errors import unknown
from advjax.models.normalisation import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    CIFAR100_MEAN,
    CIFAR100_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    KUANGLIU_STD,
)

LINF = ("linf", "8/255")
TRADES_EPS = ("linf", "0.031")
L2 = ("l2", "0.5")
NATURAL = (None, None)


class PublishedTeacher(NamedTuple):
    """A published network.

    Attributes:
        network: name in the registry.
        options: of that network.
        data: "cifar10", "cifar100" or "mnist".
        threat: (norm, epsilon as its authors write it) that it was trained for; (None, None): trained naturally.
        clean: reported clean accuracy in percent, None where the source gives none.
        autoattack: reported accuracy under AutoAttack in percent, at `threat`; None where the source gives none.
        where: where its authors publish the file.
        source: where the facts come from, see the head of this module.
        extra_data: whether it was trained on more than the training set of `data` (generated images not counted).
    """

    network: str
    options: dict[str, Any]
    data: str
    threat: tuple[str | None, str | None]
    clean: float | None
    autoattack: float | None
    where: str
    source: str
    extra_data: bool = False

    @property
    def num_classes(self) -> int:
        """Classes of the data."""
        return 100 if self.data == "cifar100" else 10

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of an image."""
        return (28, 28, 1) if self.data == "mnist" else (32, 32, 3)


def names() -> tuple[str, ...]:
    """Every teacher's name, sorted."""
    return tuple(sorted(TEACHERS))


def teacher(name: str) -> PublishedTeacher:
    """What is known of a teacher.

    Raises:
        InputError: no teacher has that name.
    """
    if name not in TEACHERS:
        raise unknown("teacher", name, names())
    return TEACHERS[name]


def lines() -> list[str]:
    """Every teacher in a line: name, network, data, threat, reported clean accuracy and AutoAttack in percent."""
    columns = [max(len(value) for value in values) for values in zip(*map(_columns, names()), strict=True)]
    return ["  ".join(v.ljust(n) for v, n in zip(_columns(name), columns, strict=True)).rstrip() for name in names()]


def _columns(name: str) -> tuple[str, ...]:
    entry = TEACHERS[name]
    norm, eps = entry.threat
    figures = [
        f"{what} {value:.2f}" for what, value in (("clean", entry.clean), ("AutoAttack", entry.autoattack)) if value
    ]
    reported = "  ".join(figures) + (", more data" if entry.extra_data else "")
    return name, entry.network, entry.data, f"{norm} {eps}" if norm else "natural", reported


def _robustbench(
    model: str, network: str, data: str, threat: tuple, clean: float, autoattack: float | None, **rest: Any
):
    extra_data = rest.pop("extra_data", False)
    folder = {"linf": "Linf", "l2": "L2"}.get(threat[0], "Linf")
    where = f"github.com/RobustBench/robustbench (model zoo: dataset {data}, threat model {folder}, model {model})"
    return PublishedTeacher(network, rest, data, threat, clean, autoattack, where, "robustbench", extra_data)


def _deepmind(file: str, network: str, data: str, threat: tuple, clean: float, autoattack: float, **rest: Any):
    extra_data = rest.pop("extra_data", False)
    options = {**rest, **(_SWISH100 if data == "cifar100" else {})}
    where = (
        f"github.com/google-deepmind/deepmind-research/tree/master/adversarial_robustness (file {file}, .pt or .npy)"
    )
    return PublishedTeacher(network, options, data, threat, clean, autoattack, where, "deepmind", extra_data)


def _natural(source: str, network: str, data: str, clean: float, **options: Any) -> PublishedTeacher:
    where = {
        "chenyaofo": "github.com/chenyaofo/pytorch-cifar-models/releases",
        "akamaster": "github.com/akamaster/pytorch_resnet_cifar10/tree/master/pretrained_models",
        "mtard": "github.com/zhaoshiji123/MTARD (README, clean teacher)",
    }[source]
    return PublishedTeacher(network, options, data, NATURAL, clean, None, where, source)


_IMAGENET = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
_CIFAR10 = {"mean": CIFAR10_MEAN, "std": CIFAR10_STD}
_CIFAR100_EXACT = {"mean": (0.50707516, 0.48654887, 0.44091784), "std": (0.26733429, 0.25643846, 0.27615047)}
_CHENYAOFO10 = {"mean": CIFAR10_MEAN, "std": KUANGLIU_STD}
_CHENYAOFO100 = {"mean": (0.5070, 0.4865, 0.4409), "std": (0.2673, 0.2564, 0.2761)}
_SWISH100 = {"mean": CIFAR100_MEAN, "std": CIFAR100_STD}

TEACHERS: dict[str, PublishedTeacher] = {
    # B-MTARD's, MTARD's and RSLAD's own
    "trades_wrn_34_10": PublishedTeacher(
        "wrn_34_10", {}, "cifar10", TRADES_EPS, 84.92, 53.08, "github.com/yaodongyu/TRADES", "trades, robustbench"
    ),
    "mtard_resnet56": _natural("mtard", "resnet56", "cifar10", 93.18),
    # its README reports 96.07 under PGD-40, no AutoAttack
    "trades_mnist": PublishedTeacher(
        "small_cnn", {}, "mnist", ("linf", "0.3"), 99.48, None, "github.com/yaodongyu/TRADES", "trades"
    ),
    # natural CIFAR networks
    "akamaster_resnet20": _natural("akamaster", "resnet20", "cifar10", 91.73, shortcut="pad", **_IMAGENET),
    "akamaster_resnet32": _natural("akamaster", "resnet32", "cifar10", 92.63, shortcut="pad", **_IMAGENET),
    "akamaster_resnet44": _natural("akamaster", "resnet44", "cifar10", 93.10, shortcut="pad", **_IMAGENET),
    "akamaster_resnet56": _natural("akamaster", "resnet56", "cifar10", 93.39, shortcut="pad", **_IMAGENET),
    "chenyaofo_cifar10_resnet20": _natural("chenyaofo", "resnet20", "cifar10", 92.60, **_CHENYAOFO10),
    "chenyaofo_cifar10_resnet32": _natural("chenyaofo", "resnet32", "cifar10", 93.53, **_CHENYAOFO10),
    "chenyaofo_cifar10_resnet44": _natural("chenyaofo", "resnet44", "cifar10", 94.01, **_CHENYAOFO10),
    "chenyaofo_cifar10_resnet56": _natural("chenyaofo", "resnet56", "cifar10", 94.37, **_CHENYAOFO10),
    "chenyaofo_cifar100_resnet20": _natural("chenyaofo", "resnet20", "cifar100", 68.83, **_CHENYAOFO100),
    "chenyaofo_cifar100_resnet32": _natural("chenyaofo", "resnet32", "cifar100", 70.16, **_CHENYAOFO100),
    "chenyaofo_cifar100_resnet44": _natural("chenyaofo", "resnet44", "cifar100", 71.63, **_CHENYAOFO100),
    "chenyaofo_cifar100_resnet56": _natural("chenyaofo", "resnet56", "cifar100", 72.63, **_CHENYAOFO100),
    # CIFAR-10, l_inf
    "gowal2020_wrn_28_10_extra": _deepmind(
        "cifar10_linf_wrn28-10_with", "wrn_28_10_swish", "cifar10", LINF, 89.48, 62.80, extra_data=True
    ),
    "gowal2020_wrn_70_16": _deepmind("cifar10_linf_wrn70-16_without", "wrn_70_16_swish", "cifar10", LINF, 85.29, 57.20),
    "gowal2020_wrn_70_16_extra": _deepmind(
        "cifar10_linf_wrn70-16_with", "wrn_70_16_swish", "cifar10", LINF, 91.10, 65.88, extra_data=True
    ),
    "gowal2020_wrn_34_20": _deepmind(
        "cifar10_linf_wrn34-20_without", "wrn_28_10_swish", "cifar10", LINF, 85.64, 56.86, depth=34, width=20
    ),
    "rebuffi2021_wrn_28_10": _deepmind(
        "cifar10_linf_wrn28-10_cutmix_ddpm_v2", "wrn_28_10_swish", "cifar10", LINF, 87.33, 60.75
    ),
    "rebuffi2021_wrn_70_16": _deepmind(
        "cifar10_linf_wrn70-16_cutmix_ddpm_v2", "wrn_70_16_swish", "cifar10", LINF, 88.54, 64.25
    ),
    "rade2021_wrn_28_10": _robustbench("Rade2021Helper_ddpm", "wrn_28_10_swish", "cifar10", LINF, 88.16, 60.97),
    "pang2022_wrn_28_10": _robustbench("Pang2022Robustness_WRN28_10", "wrn_28_10_swish", "cifar10", LINF, 88.61, 61.04),
    "pang2022_wrn_70_16": _robustbench("Pang2022Robustness_WRN70_16", "wrn_70_16_swish", "cifar10", LINF, 89.01, 63.35),
    "wang2023_wrn_28_10": _robustbench("Wang2023Better_WRN-28-10", "wrn_28_10_swish", "cifar10", LINF, 92.44, 67.31),
    "wang2023_wrn_70_16": _robustbench("Wang2023Better_WRN-70-16", "wrn_70_16_swish", "cifar10", LINF, 93.25, 70.69),
    "cui2023_wrn_28_10": _robustbench("Cui2023Decoupled_WRN-28-10", "wrn_28_10_swish", "cifar10", LINF, 92.16, 67.73),
    "cui2023_wrn_34_10": _robustbench("Cui2023Decoupled_WRN-34-10", "wrn_34_10", "cifar10", LINF, 85.31, 57.09),
    "lbgat_wrn_34_10": _robustbench("Cui2020Learnable_34_10", "wrn_34_10", "cifar10", TRADES_EPS, 88.22, 52.86),
    "lbgat_wrn_34_20": _robustbench("Cui2020Learnable_34_20", "wrn_34_20", "cifar10", TRADES_EPS, 88.70, 53.57),
    "ltd_wrn_34_10": _robustbench("Chen2021LTD_WRN34_10", "wrn_34_10", "cifar10", LINF, 85.21, 56.94),
    "ltd_wrn_34_20": _robustbench("Chen2021LTD_WRN34_20", "wrn_34_20", "cifar10", LINF, 86.03, 57.71),
    "awp_wrn_34_10": _robustbench("Wu2020Adversarial", "wrn_34_10", "cifar10", LINF, 85.36, 56.17),
    "las_at_wrn_34_10": _robustbench("Jia2022LAS-AT_34_10", "wrn_34_10", "cifar10", LINF, 84.98, 56.26),
    "sehwag2021_wrn_34_10": _robustbench("Sehwag2021Proxy", "wrn_34_10", "cifar10", LINF, 86.68, 60.27),
    "sehwag2021_resnet18": _robustbench("Sehwag2021Proxy_R18", "resnet18", "cifar10", LINF, 84.59, 55.54),
    "addepalli2022_resnet18": _robustbench("Addepalli2022Efficient_RN18", "resnet18", "cifar10", LINF, 85.71, 52.48),
    "addepalli2022_wrn_34_10": _robustbench(
        "Addepalli2022Efficient_WRN_34_10", "wrn_34_10", "cifar10", LINF, 88.71, 57.81
    ),
    "carmon2019_wrn_28_10_extra": _robustbench(
        "Carmon2019Unlabeled", "wrn_28_10", "cifar10", LINF, 89.69, 59.53, extra_data=True
    ),
    "rice2020_wrn_34_20": _robustbench("Rice2020Overfitting", "wrn_34_20", "cifar10", LINF, 85.34, 53.42, **_CIFAR10),
    "engstrom2019_resnet50": _robustbench(
        "Engstrom2019Robustness", "resnet50", "cifar10", LINF, 87.03, 49.25, mean=CIFAR10_MEAN, std=KUANGLIU_STD
    ),
    "andriushchenko2020_preact_resnet18": _robustbench(
        "Andriushchenko2020Understanding",
        "preact_resnet18",
        "cifar10",
        LINF,
        79.84,
        43.93,
        shortcut_from="raw",
        final_norm=False,
    ),
    "robustbench_standard": _robustbench("Standard", "wrn_28_10", "cifar10", NATURAL, 94.78, None),
    # CIFAR-10, l_2
    "rebuffi2021_l2_wrn_28_10": _deepmind(
        "cifar10_l2_wrn28-10_cutmix_ddpm_v2", "wrn_28_10_swish", "cifar10", ("l2", "128/255"), 91.79, 78.80
    ),
    "rebuffi2021_l2_wrn_70_16": _deepmind(
        "cifar10_l2_wrn70-16_cutmix_ddpm_v2", "wrn_70_16_swish", "cifar10", ("l2", "128/255"), 92.41, 80.42
    ),
    "wang2023_l2_wrn_28_10": _robustbench("Wang2023Better_WRN-28-10", "wrn_28_10_swish", "cifar10", L2, 95.16, 83.68),
    "wang2023_l2_wrn_70_16": _robustbench("Wang2023Better_WRN-70-16", "wrn_70_16_swish", "cifar10", L2, 95.54, 84.97),
    "engstrom2019_l2_resnet50": _robustbench(
        "Engstrom2019Robustness", "resnet50", "cifar10", L2, 90.83, 69.24, mean=CIFAR10_MEAN, std=KUANGLIU_STD
    ),
    "rice2020_l2_preact_resnet18": _robustbench(
        "Rice2020Overfitting", "preact_resnet18", "cifar10", L2, 88.67, 67.68, **_CIFAR10
    ),
    "sehwag2021_l2_resnet18": _robustbench("Sehwag2021Proxy_R18", "resnet18", "cifar10", L2, 89.76, 74.41),
    # CIFAR-100, l_inf; the first two are RSLAD's and B-MTARD's choice of robust teacher
    "gowal2020_cifar100_wrn_70_16": _deepmind(
        "cifar100_linf_wrn70-16_without", "wrn_70_16_swish", "cifar100", LINF, 60.86, 30.03
    ),
    "gowal2020_cifar100_wrn_70_16_extra": _deepmind(
        "cifar100_linf_wrn70-16_with", "wrn_70_16_swish", "cifar100", LINF, 69.15, 36.88, extra_data=True
    ),
    "rebuffi2021_cifar100_wrn_28_10": _deepmind(
        "cifar100_linf_wrn28-10_cutmix_ddpm", "wrn_28_10_swish", "cifar100", LINF, 62.41, 32.06
    ),
    "rebuffi2021_cifar100_wrn_70_16": _deepmind(
        "cifar100_linf_wrn70-16_cutmix_ddpm", "wrn_70_16_swish", "cifar100", LINF, 63.56, 34.64
    ),
    "wang2023_cifar100_wrn_28_10": _robustbench(
        "Wang2023Better_WRN-28-10", "wrn_28_10_swish", "cifar100", LINF, 72.58, 38.83, **_SWISH100
    ),
    "wang2023_cifar100_wrn_70_16": _robustbench(
        "Wang2023Better_WRN-70-16", "wrn_70_16_swish", "cifar100", LINF, 75.22, 42.67, **_SWISH100
    ),
    "cui2023_cifar100_wrn_34_10": _robustbench(
        "Cui2023Decoupled_WRN-34-10", "wrn_34_10", "cifar100", LINF, 65.76, 31.91
    ),
    "lbgat0_cifar100_wrn_34_10": _robustbench(
        "Cui2020Learnable_34_10_LBGAT0", "wrn_34_10", "cifar100", LINF, 70.25, 27.16
    ),
    "lbgat6_cifar100_wrn_34_10": _robustbench(
        "Cui2020Learnable_34_10_LBGAT6", "wrn_34_10", "cifar100", LINF, 60.64, 29.33
    ),
    "ltd_cifar100_wrn_34_10": _robustbench("Chen2021LTD_WRN34_10", "wrn_34_10", "cifar100", LINF, 64.07, 30.59),
    "awp_cifar100_wrn_34_10": _robustbench(
        "Wu2020Adversarial", "wrn_34_10", "cifar100", LINF, 60.38, 28.86, **_CIFAR100_EXACT
    ),
    "sehwag2021_cifar100_wrn_34_10": _robustbench("Sehwag2021Proxy", "wrn_34_10", "cifar100", LINF, 65.93, 31.15),
    "addepalli2022_cifar100_resnet18": _robustbench(
        "Addepalli2022Efficient_RN18", "resnet18", "cifar100", LINF, 65.45, 27.67
    ),
    "rice2020_cifar100_preact_resnet18": _robustbench(
        "Rice2020Overfitting", "preact_resnet18", "cifar100", LINF, 53.83, 18.95, **_CIFAR100_EXACT
    ),
}
