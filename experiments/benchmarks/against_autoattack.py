"""The standard version of AutoAttack, ours against the authors' PyTorch code, stage by stage in turns.

    python -m experiments.benchmarks.against_autoattack --weights=trades_mnist_smallcnn.pt --images=mnist.npz
        [--n=250] [--norm=linf] [--eps=0.3] [--json=FILE]

Needs the authors' package `autoattack` (github fra31/auto-attack, not on PyPI) on the path, and PyTorch. The weights are
the TRADES authors' MNIST network. Each stage (APGD-CE, APGD-T, FAB-T, Square) runs once with theirs, then with ours, each
on the images that its own stages before have left; ours compiles on the way, which is in its seconds and reported apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import numpy as np
from absl import flags

from advjax import models
from advjax.attacks import cascade
from advjax.errors import InputError
from experiments.benchmarks import common

FLAGS = flags.FLAGS
flags.DEFINE_string("weights", None, "the network's PyTorch file", required=True)
flags.DEFINE_string("images", None, "npz with x_test and y_test", required=True)
flags.DEFINE_integer("n", 250, "number of images")
flags.DEFINE_enum("norm", "linf", ["linf", "l2"], "norm")
flags.DEFINE_float("eps", 0.3, "radius")

STAGES = {"apgd_ce": "apgd-ce", "apgd_t": "apgd-t", "fab_t": "fab-t", "square": "square"}
Attack = Callable[[str, np.ndarray], np.ndarray]


def theirs(x: np.ndarray, y: np.ndarray) -> Attack:
    """(stage, rows of x [N, 28, 28, 1] that stand) to those that still do, with the authors' code.

    Raises:
        InputError: PyTorch or the authors' package is missing.
    """
    try:
        import torch
        from autoattack import AutoAttack
    except ImportError as error:
        raise InputError(f"this benchmark needs PyTorch and the authors' package autoattack: {error}") from None
    from experiments.torch_definitions.small_cnn import SmallCNN

    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = SmallCNN().eval().to(device)
    net.load_state_dict(torch.load(FLAGS.weights, map_location=device, weights_only=True))
    images = torch.as_tensor(x.transpose(0, 3, 1, 2), device=device).contiguous()
    labels = torch.as_tensor(y, dtype=torch.long, device=device)
    norm = {"linf": "Linf", "l2": "L2"}[FLAGS.norm]
    suite = AutoAttack(net, norm=norm, eps=FLAGS.eps, seed=0, device=device, verbose=False)

    def run(stage: str, rows: np.ndarray) -> np.ndarray:
        suite.attacks_to_run = [STAGES[stage]]
        x_adv = suite.run_standard_evaluation(images[rows], labels[rows], bs=250)
        with torch.no_grad():
            return rows[(net(x_adv).argmax(1) == labels[rows]).cpu().numpy()]

    return run


def ours(x: np.ndarray, y: np.ndarray) -> Attack:
    """The same with this library."""
    module = models.create("small_cnn", 10)
    logits_fn = models.logits_fn(module, models.load_torch(FLAGS.weights, module, (28, 28, 1)))

    def run(stage: str, rows: np.ndarray) -> np.ndarray:
        result = cascade(
            logits_fn, jax.random.key(0), x[rows], y[rows], ids=rows, norm=FLAGS.norm, eps=FLAGS.eps, attacks=(stage,)
        )
        return rows[result.robust]

    return run


def main() -> None:
    """Prints a row per stage and the sum."""
    report = common.Report(f"AutoAttack standard, {FLAGS.norm} {FLAGS.eps}, {FLAGS.n} images")
    data = np.load(FLAGS.images)
    x = data["x_test"][: FLAGS.n].reshape(-1, 28, 28, 1).astype(np.float32) / 255
    y = data["y_test"][: FLAGS.n].astype(np.int32)
    sides: dict[str, Attack] = {"authors'": theirs(x, y), "our": ours(x, y)}
    left = {side: np.arange(len(x)) for side in sides}
    total = dict.fromkeys(sides, 0.0)

    def add(attack: str, seconds: dict[str, float], compiling: float) -> None:
        row = {f"{side} %": 100.0 * len(left[side]) / len(x) for side in sides}
        row |= {f"{side} s": seconds[side] for side in sides}
        ratio = seconds["authors'"] / seconds["our"]
        report.add("Accuracy and seconds", attack=attack, **row, **{"compiling s": compiling, "times as fast": ratio})

    compiling = common.CompileTime()
    for stage in STAGES:
        compiled, seconds = compiling.seconds, {}
        for side, attack in sides.items():
            started = time.perf_counter()
            left[side] = attack(stage, left[side]) if len(left[side]) else left[side]
            seconds[side] = time.perf_counter() - started
            total[side] += seconds[side]
        add(stage, seconds, compiling.seconds - compiled)
    add("all", total, compiling.seconds)


if __name__ == "__main__":
    common.run(main)
