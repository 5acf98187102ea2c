"""AutoAttack's attacks, ours against the authors' PyTorch code, in turns on the same images.

    python -m experiments.benchmarks.against_autoattack --weights=trades_mnist_smallcnn.pt --images=mnist.npz
        [--n=250] [--norm=linf] [--eps=0.3] [--queries=500] [--repeats=3] [--json=FILE]

Needs the authors' package `autoattack` (github fra31/auto-attack, not on PyPI) on the path and PyTorch. The weights are
the TRADES authors' MNIST network. Of the first `--n` images those take part that withstand APGD-CE, since only they get
the later attacks. Each row is one run of a single trial: APGD-CE with 100 steps, APGD-T and FAB-T with 100 steps for one
target, Square with `--queries`. The last is the sum as `standard` has it for a robust image: 1 APGD-CE, 9 targets each of
APGD-T and FAB-T, 5,000 queries. Compilation is reported apart.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import flags

from advjax import models
from advjax.attacks import Stage, cascade
from advjax.attacks.apgd import APGD
from advjax.attacks.fab import FAB
from advjax.attacks.square import Square
from advjax.errors import InputError
from experiments.benchmarks import common

FLAGS = flags.FLAGS
flags.DEFINE_string("weights", None, "the network's PyTorch file", required=True)
flags.DEFINE_string("images", None, "npz with x_test and y_test", required=True)
flags.DEFINE_integer("n", 250, "number of images before APGD-CE")
flags.DEFINE_enum("norm", "linf", ["linf", "l2"], "norm")
flags.DEFINE_float("eps", 0.3, "radius")
flags.DEFINE_integer("queries", 500, "of Square")


def theirs(x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The authors' attacks on x [N, 28, 28, 1]."""
    try:
        import torch
        from autoattack.autopgd_base import APGDAttack, APGDAttack_targeted
        from autoattack.fab_pt import FABAttack_PT
        from autoattack.square import SquareAttack
    except ImportError as error:
        raise InputError(f"this benchmark needs PyTorch and the authors' package autoattack: {error}") from None
    from experiments.torch_definitions.small_cnn import SmallCNN

    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = SmallCNN().eval().to(device)
    net.load_state_dict(torch.load(FLAGS.weights, map_location=device, weights_only=True))
    images = torch.as_tensor(x.transpose(0, 3, 1, 2), device=device).contiguous()
    labels = torch.as_tensor(y, dtype=torch.long, device=device)
    common_options = {"norm": {"linf": "Linf", "l2": "L2"}[FLAGS.norm], "eps": FLAGS.eps, "device": device, "seed": 0}
    ce = APGDAttack(net, n_iter=100, loss="ce", **common_options)
    targeted = APGDAttack_targeted(net, n_iter=100, n_target_classes=1, **common_options)
    fab = FABAttack_PT(net, n_iter=100, targeted=True, n_target_classes=1, **common_options)
    square = SquareAttack(net, p_init=0.8, n_queries=FLAGS.queries, resc_schedule=False, **common_options)

    def run(attack):
        out = attack.perturb(images, labels)
        if device == "cuda":
            torch.cuda.synchronize()
        return np.asarray((out[1] if isinstance(out, tuple) else out).detach().cpu()).shape

    return {
        "APGD-CE": lambda: run(ce),
        "APGD-T": lambda: run(targeted),
        "FAB-T": lambda: run(fab),
        "Square": lambda: run(square),
    }


def ours(logits_fn: Callable, x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], Any]]:
    """The same with this library."""
    bodies = {
        "APGD-CE": APGD(FLAGS.norm, "ce", stop=True),
        "APGD-T": APGD(FLAGS.norm, "dlr_targeted", stop=True),
        "FAB-T": FAB(FLAGS.norm, stop=True),
        "Square": Square(FLAGS.norm, FLAGS.queries),
    }

    def run(name, body):
        stages = (Stage(name, body),)
        options = {"norm": FLAGS.norm, "eps": FLAGS.eps, "batch_size": len(x)}
        return cascade(logits_fn, jax.random.key(0), x, y, attacks=stages, **options).robust

    return {name: functools.partial(run, name, body) for name, body in bodies.items()}


def main() -> None:
    """Prints a row per attack and the sum."""
    report = common.Report(f"AutoAttack's attacks, {FLAGS.norm} {FLAGS.eps}, ours against the authors'")
    module = models.create("small_cnn", 10)
    logits_fn = models.logits_fn(module, models.load_torch(FLAGS.weights, module, (28, 28, 1)))
    data = np.load(FLAGS.images)
    x = data["x_test"][: FLAGS.n].reshape(-1, 28, 28, 1).astype(np.float32) / 255
    y = data["y_test"][: FLAGS.n].astype(np.int32)
    stands = cascade(
        logits_fn, jax.random.key(0), x, y, norm=FLAGS.norm, eps=FLAGS.eps, attacks=("apgd_ce",), batch_size=len(x)
    ).robust
    x, y = x[stands], y[stands]
    mine, authors = ours(logits_fn, x, y), theirs(x, y)
    weights = {"APGD-CE": 1.0, "APGD-T": 9.0, "FAB-T": 9.0, "Square": 5000 / FLAGS.queries}
    totals = np.zeros((2, FLAGS.repeats))
    for name, weight in weights.items():
        times = common.measure({"ours": mine[name], "theirs": authors[name]}, FLAGS.repeats)
        totals += weight * np.asarray([times["ours"]["times"], times["theirs"]["times"]])
        report.add(
            "Seconds of one trial",
            attack=name,
            images=len(x),
            **{"ours s": times["ours"]["median"], "authors' s": times["theirs"]["median"]},
            **{"times as fast": 1.0 / common.over(times["ours"], times["theirs"])},
            **{"our first call s": times["ours"]["first"]},
        )
    report.add(
        "All of `standard` for these images, from the rows above, compilation apart",
        images=len(x),
        **{"ours s": float(np.median(totals[0])), "authors' s": float(np.median(totals[1]))},
        **{"times as fast": float(np.median(totals[1] / totals[0]))},
    )


if __name__ == "__main__":
    common.run(main)
