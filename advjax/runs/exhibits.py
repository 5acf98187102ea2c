"""What a page shows of an evaluation beside its numbers: predictions, confidences, and a few images before and after.

They are made once, by the end of an evaluation, of the attack that the protocol crafted images with anyway and of at most
`ATTACKED` images, and lie in `exhibits.npz` beside the evaluation's records.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from advjax.data import Dataset, Split
from advjax.evaluate import Attack, attack_dataset, clean
from advjax.evaluate.attack_dataset import fingerprint
from advjax.evaluate.protocols import LogitsFn
from advjax.parallel import Devices

FILE = "exhibits.npz"
ATTACKED = 1000
GALLERY = 12
LARGEST = 96  # pixels per side of what is shown
HELD = 64_000_000  # bytes of attacked images among which those that are shown are chosen
# Names of the classes where a data set is known but its files have none.
CLASSES = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "fashion_mnist": (
        *("T-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
}


class Exhibits(NamedTuple):
    """What a network said of the test images; M of N were attacked, G of these are shown.

    Attributes:
        label: [N] true classes.
        clean_class: [N] predicted classes.
        clean_confidence: [N] their probabilities.
        attack: name of the attack, empty if there was none; then M and G are 0.
        adv_class: [M] predicted classes of the first M images, attacked.
        adv_confidence: [M] their probabilities.
        shown: [G] rows that are shown.
        image: [G, h, w, C] uint8, made smaller where they were large.
        perturbation: [G, h, w, C] float32, of the same size.
        classes: names of the classes; numbers where the data set has none.
    """

    label: np.ndarray
    clean_class: np.ndarray
    clean_confidence: np.ndarray
    attack: str
    adv_class: np.ndarray
    adv_confidence: np.ndarray
    shown: np.ndarray
    image: np.ndarray
    perturbation: np.ndarray
    classes: np.ndarray


def chosen(attacks: Sequence[Attack], eps: float) -> Attack | None:
    """The attack whose images are shown: of those that are crafted on the network itself, PGD-20 or the longest."""
    own = [a for a in attacks if a.craft is not None and a.name != "clean" and not a.transfer and not a.own_loss]
    own = [a for a in own if a.radius == eps]
    return max(own, key=lambda a: (a.name == "pgd20", a.backwards), default=None)


def collect(
    logits_fn: LogitsFn,
    attacks: Sequence[Attack],
    dataset: Dataset,
    folder: pathlib.Path,
    *,
    network_hash: str,
    eps: float,
    examples: int,
    seed: int,
    batch_size: int,
    devices: Sequence[jax.Device],
) -> None:
    """Makes `exhibits.npz` in `folder`, unless it is there already of the same network and settings.

    Args:
        logits_fn: the network, evaluation mode.
        attacks: the protocol.
        dataset: of its test part the first `examples` images.
        folder: where the evaluation keeps its records.
        network_hash: tells the network from others.
        eps: radius of the threat model.
        examples: how many images were scored.
        seed: of the attacks.
        batch_size: as in the evaluation, so that nothing compiles anew.
        devices: where to run.
    """
    attack = chosen(attacks, eps)
    settings = fingerprint(attack, seed, network_hash, "broken") if attack else {"network": network_hash}
    made_of = json.dumps([settings, examples], sort_keys=True)
    if (folder / FILE).exists() and _made_of(folder) == made_of:
        return
    options: dict[str, Any] = {"seed": seed, "batch_size": batch_size, "devices": devices}
    test = Split(*(array[:examples] for array in dataset.test))
    seen = _observed(logits_fn, clean(), test, **options)
    few = Split(*(array[: max(ATTACKED, Devices(devices).batch_size(batch_size))] for array in test))
    attacked = _observed(logits_fn, attack, few, keep=True, **options) if attack else None
    content: dict[str, Any] = {
        "made_of": made_of,
        "label": test.label.astype(np.int32),
        "clean_class": seen["class"],
        "clean_confidence": seen["confidence"],
        "attack": attack.name if attack else "",
        "classes": np.array(_class_names(dataset), dtype=np.str_),
    }
    if attacked is None:
        none = np.zeros(0, np.int32)
        content |= {"adv_class": none, "adv_confidence": none.astype(np.float32), "shown": none}
        content |= {"image": np.zeros((0, 1, 1, 1), np.uint8), "perturbation": np.zeros((0, 1, 1, 1), np.float32)}
    else:
        shown = pick(few.label[: len(attacked["images"])], seen["class"], attacked["class"])
        image = few.image[shown]
        perturbation = np.stack([attacked["images"][row] for row in shown]) - image / np.float32(255)
        content |= {"adv_class": attacked["class"], "adv_confidence": attacked["confidence"], "shown": shown}
        content |= {"image": smaller(image).round().astype(np.uint8), "perturbation": smaller(perturbation)}
    _write(folder, content)


def _class_names(dataset: Dataset) -> Sequence[str]:
    known = dataset.classes or CLASSES.get(dataset.name, ())
    return known if len(known) == dataset.num_classes else [str(k) for k in range(dataset.num_classes)]


def pick(label: np.ndarray, before: np.ndarray, after: np.ndarray, most: int = GALLERY) -> np.ndarray:
    """Rows of images worth a look: right before the attack, a class after the other, most of them wrong after it.

    Args:
        label: [M] true classes.
        before: [>= M] predictions without the attack.
        after: [>= M] predictions under it.
        most: how many.

    Returns:
        Up to `most` rows: where there are enough, three quarters of them broken, the broken ones first.
    """
    before, after = before[: len(label)], after[: len(label)]
    right = before == label
    kinds = [np.flatnonzero(right & (after != label)), np.flatnonzero(right & (after == label)), np.flatnonzero(~right)]
    spread = [_class_by_class(rows, label) for rows in kinds]
    quotas = [most - most // 4, most // 4, 0]
    taken = [rows[:quota] for rows, quota in zip(spread, quotas, strict=True)]
    for index, rows in enumerate(spread):
        missing = most - sum(map(len, taken))
        taken[index] = rows[: len(taken[index]) + missing]
    return np.concatenate(taken).astype(np.int32)


def _class_by_class(rows: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The rows with the first one of every class in front, then the second ones, and so on."""
    seen: dict[int, int] = {}
    turn = []
    for row in rows:
        turn.append(seen.get(int(label[row]), 0))
        seen[int(label[row])] = turn[-1] + 1
    return rows[np.lexsort((label[rows], np.array(turn, int)))] if len(rows) else rows


def smaller(images: np.ndarray, largest: int = LARGEST) -> np.ndarray:
    """Images [G, H, W, C] as float32, averaged over blocks until no side is longer than `largest`."""
    height, width = images.shape[1:3]
    times = -(-max(height, width) // largest)
    h, w = max(1, height // times), max(1, width // times)
    if min(height, width) < times:
        return images.astype(np.float32)[:, :largest, :largest]
    blocks = images[:, : h * times, : w * times].astype(np.float32)
    return blocks.reshape(len(images), h, times, w, times, -1).mean((2, 4))


def _observed(
    logits_fn: LogitsFn, attack: Attack, split: Split, *, keep: bool = False, **options: Any
) -> dict[str, Any]:
    predicted, confidence = np.zeros(len(split.label), np.int32), np.zeros(len(split.label), np.float32)
    images: dict[int, np.ndarray] = {}

    def observe(rows: np.ndarray, x: np.ndarray, logits: np.ndarray) -> None:
        shifted = np.exp(logits - logits.max(-1, keepdims=True))
        predicted[rows], confidence[rows] = logits.argmax(-1), (shifted / shifted.sum(-1, keepdims=True)).max(-1)
        if keep and len(images) * x[0].nbytes < HELD:
            images.update(zip(rows.tolist(), x, strict=True))

    attack_dataset(logits_fn, attack, split, observe=observe, **options)
    return {"class": predicted, "confidence": confidence, "images": images}


def _write(folder: pathlib.Path, content: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    np.savez_compressed(file, **content)
    partial = folder / f"{FILE}.partial"
    partial.write_bytes(file.getvalue())
    os.replace(partial, folder / FILE)


def _made_of(folder: pathlib.Path) -> str:
    try:
        with np.load(folder / FILE, allow_pickle=False) as file:
            return str(file["made_of"])
    except (OSError, ValueError, KeyError, EOFError):
        return ""


def read(folder: pathlib.Path) -> Exhibits | None:
    """What `collect` wrote into a folder; None where there is nothing that can be read."""
    try:
        with np.load(folder / FILE, allow_pickle=False) as file:
            found = {name: file[name] for name in Exhibits._fields}
    except (OSError, ValueError, KeyError, EOFError):
        return None
    return Exhibits(**{**found, "attack": str(found["attack"])})


class Calibration(NamedTuple):
    """How far confidence is from accuracy.

    Attributes:
        bins: (mean confidence, accuracy, share of the predictions) of every bin that is not empty.
        error: the expected calibration error, their weighted mean distance.
    """

    bins: list[tuple[float, float, float]]
    error: float


def calibration(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> Calibration:
    """The expected calibration error with bins of one width (Guo et al. 2017).

    Examples:
        >>> calibration(np.array([0.9, 0.9, 0.6, 0.6]), np.array([True, True, True, False])).error
        0.1
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    found = []
    for k in np.unique(place):
        inside = place == k
        found.append((float(confidence[inside].mean()), float(right[inside].mean()), float(inside.mean())))
    return Calibration(found, sum(share * abs(mean - accuracy) for mean, accuracy, share in found))
