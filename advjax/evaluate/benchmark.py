"""One call from a network to the numbers that RobustBench's leaderboard has."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np

from advjax import threat
from advjax.attacks import AutoAttackResult, autoattack
from advjax.attacks.engine.inputs import check_count
from advjax.data import Split, load, to_float
from advjax.errors import InputError
from advjax.evaluate.attack_dataset import attack_key
from advjax.evaluate.protocols import LogitsFn
from advjax.numbers import Number, number, text

# RobustBench's threat models.
_RADII: dict[tuple[str, str], Number] = {
    ("cifar10", "linf"): "8/255",
    ("cifar10", "l2"): 0.5,
    ("cifar100", "linf"): "8/255",
    ("imagenet", "linf"): "4/255",
}


def _written(eps: Number) -> str:
    """As people write it, also where Python has divided already: 0.0313725 is 8/255."""
    shown, parts = text(eps), round(number(eps) * 255)
    return f"{parts}/255" if len(shown) > 5 and parts / 255 == number(eps) else shown


class Benchmark(NamedTuple):
    """What `benchmark` measured; prints as a few lines.

    Attributes:
        clean: clean accuracy, 0..1.
        robust: robust ("adversarial") accuracy, 0..1.
        attack: what AutoAttack did, image by image.
        title: data, number of images, threat model and version.
    """

    clean: float
    robust: float
    attack: AutoAttackResult
    title: str

    def __repr__(self) -> str:
        words = f"Clean accuracy: {self.clean:.2%}\nAdversarial accuracy: {self.robust:.2%}"
        return f"{self.title}\n{words}\n\n{self.attack}"


def benchmark(
    logits_fn: LogitsFn,
    dataset: str | Split = "cifar10",
    *,
    norm: str = "linf",
    eps: Number | None = None,
    version: str = "standard",
    examples: int = 0,
    data_path: str | os.PathLike[str] | None = None,
    seed: int = 0,
    verbose: bool = True,
    **options: Any,
) -> Benchmark:
    """AutoAttack on the first `examples` test images in their stored order, as RobustBench's `benchmark` counts.

    The same outcome as the row `autoattack` of `experiments.evaluate --protocol=standard` with this seed. Which images
    are the first is up to the files: RobustBench's are those of the official order, which TFDS' CIFAR-10 and CIFAR-100
    are brought into here.

    Args:
        logits_fn: images [B, H, W, C] in [0, 1] -> logits [B, K], evaluation mode; normalisation belongs into it.
        dataset: a name of `advjax.data.load` (`"cifar10"`, `"digits"`, ...), or uint8 images and labels themselves.
        norm: `"linf"`, `"l2"` or `"l1"`.
        eps: radius, a number or a fraction such as `"8/255"`; if absent RobustBench's, where it has one (CIFAR-10 and
            CIFAR-100 in l_inf 8/255, CIFAR-10 in l_2 0.5, ImageNet in l_inf 4/255).
        version: of AutoAttack; only `"standard"` compares with the leaderboard.
        examples: how many, the first ones; 0: all.
        data_path: an npz file, a folder of them, or an image folder, as in `advjax.data.load`.
        seed: root of the attacks' randomness.
        verbose: whether the result is printed.
        **options: of `autoattack`: batch_size, record_path (goes on where it stopped), search_dtype, devices, progress...

    Raises:
        InputError: no radius where there is no usual one, more examples than there are; as `load` and `autoattack`.
    """
    named = isinstance(dataset, str)
    norm = threat.canonical_norm(norm)
    radius = eps if eps is not None else _RADII.get((str(dataset), norm) if named else ("", norm))
    if radius is None:
        usual = ", ".join(f"{name} {text(value)} ({ball})" for (name, ball), value in _RADII.items())
        raise InputError(f"must be given for this data in {norm}; only these have a usual one: {usual}", "eps")
    check_count(examples, "examples", 0)
    split = load(dataset, data_path).test if isinstance(dataset, str) else dataset
    total = len(split.label)
    if examples > total:
        raise InputError(f"must be at most the {total:,} test images there are, it is {examples}", "examples")
    n = examples or total
    images, labels = np.asarray(to_float(split.image[:n])), split.label[:n]
    key = attack_key(seed, {"standard": "autoattack", "fast": "autoattack_fast"}.get(version, version))
    result = autoattack(
        logits_fn, key, images, labels, norm=norm, eps=number(radius, "eps"), version=version, **options
    )
    title = (
        f"{dataset if named else 'own data'}: the first {n:,} of {total:,} test images in their stored order; "
        f"{norm}, eps = {_written(radius)}; AutoAttack, version {version}"
    )
    measured = Benchmark(result.accuracy["clean"], float(result.robust.mean()), result, title)
    if verbose:
        print(measured)
    return measured
