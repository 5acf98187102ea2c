"""The standard version of AutoAttack on a real robust network: result, seconds, compilation, passes, memory.

    python -m experiments.benchmarks.autoattack --weights=trades_mnist_smallcnn.pt --images=mnist.npz
        [--n=250] [--norm=linf] [--eps=0.3] [--version=standard] [--attacks=] [--batch=0] [--seeds=0] [--results=FILE]

The weights are the TRADES authors' MNIST network, the images MNIST's `x_test`, `y_test`. The authors' PyTorch code gives
on the first 250, l_inf 0.3: 92.4 % after APGD-CE, APGD-T and FAB-T and 91.6 % after Square, in 284 s on two cores on
which one PyTorch forward with input gradient of this network at batch 231 took 70 ms and one forward 36 ms. With the
extra `torch` installed the same two are timed here before and after the run, so that the 284 s can be scaled to the
machine and to what else runs on it, in proportion to 1,900 gradients and 5,900 forwards. `--attacks=apgd_ce,square_100`
runs these stages in place of a version: cheap enough to see whether memory grows with `--n`.
"""

from __future__ import annotations

import json
import os
import pathlib
import resource
import time
from typing import Any

import jax
import numpy as np
from absl import flags

from advjax import models
from advjax.attacks import autoattack, cascade
from experiments.benchmarks import common

FLAGS = flags.FLAGS
flags.DEFINE_string("weights", None, "the network's PyTorch file", required=True)
flags.DEFINE_string("images", None, "npz with x_test and y_test", required=True)
flags.DEFINE_integer("n", 250, "number of images")
flags.DEFINE_string("norm", "linf", "linf, l2 or l1")
flags.DEFINE_float("eps", 0.3, "radius")
flags.DEFINE_string("version", "standard", "of AutoAttack")
flags.DEFINE_list("attacks", [], "stages in place of a version")
flags.DEFINE_integer("batch", 0, "images at a time; 0: what suits the machine")
flags.DEFINE_list("seeds", ["0"], "one run each")

REFERENCE_SECONDS, REFERENCE_GRADIENT, REFERENCE_FORWARD = 284.0, 0.070, 0.036


def torch_anchor() -> dict[str, float]:
    """Seconds of a PyTorch forward and of a forward with input gradient of this architecture at batch 231."""
    try:
        import torch
    except ImportError:
        return {}
    nn = torch.nn
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(1024, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10),
    ).eval()  # fmt: skip
    x = torch.rand(231, 1, 28, 28)

    def forward():
        with torch.no_grad():
            net(x)

    def gradient():
        image = x.clone().requires_grad_()
        torch.autograd.grad(net(image).sum(), [image])

    medians = {}
    for name, form in (("forward", forward), ("gradient", gradient)):
        times = []
        for _ in range(12):
            started = time.perf_counter()
            form()
            times.append(time.perf_counter() - started)
        medians[name] = float(np.median(times[2:]))
    return medians


def main() -> None:
    """Prints a row per seed, and writes it at once."""
    flags_given = FLAGS.get_key_flags_for_module(__name__)
    settings: dict[str, Any] = {flag.name: flag.value for flag in flags_given}
    settings.update({name: pathlib.Path(settings[name]).name for name in ("weights", "images")})
    content: dict[str, Any] = {"hardware": common.hardware(), "settings": settings, "runs": []}
    module = models.create("small_cnn", 10)
    logits_fn = models.logits_fn(module, models.load_torch(FLAGS.weights, module, (28, 28, 1)))
    data = np.load(FLAGS.images)
    x = data["x_test"][: FLAGS.n].reshape(-1, 28, 28, 1).astype(np.float32) / 255
    y = data["y_test"][: FLAGS.n].astype(np.int32)

    compiling = common.CompileTime()
    for seed in map(int, FLAGS.seeds):
        anchor, load, compiled = torch_anchor(), os.getloadavg()[0], compiling.seconds
        started = time.perf_counter()
        arguments = (logits_fn, jax.random.key(seed), x, y)
        options = {"norm": FLAGS.norm, "eps": FLAGS.eps, "batch_size": FLAGS.batch}
        if FLAGS.attacks:
            result = cascade(*arguments, attacks=FLAGS.attacks, **options)
        else:
            result = autoattack(*arguments, version=FLAGS.version, **options)
        seconds = time.perf_counter() - started
        after = torch_anchor()
        row = {
            "seed": seed,
            "accuracy": {name: round(100 * value, 2) for name, value in result.accuracy.items()},
            "seconds": round(seconds, 1),
            "of which compiling": round(compiling.seconds - compiled, 1),
            "by attack": {name: round(value, 1) for name, value in result.seconds.items()},
            "forwards per image": round(float(result.forwards.mean()), 1),
            "backwards per image": round(float(result.backwards.mean()), 1),
            "peak memory MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "load average": [round(load, 2), round(os.getloadavg()[0], 2)],
            "flags": sorted(result.flags),
        }
        if anchor:
            gradient, forward = ((anchor[k] + after[k]) / 2 for k in ("gradient", "forward"))
            row["PyTorch gradient, forward ms"] = [round(1000 * gradient), round(1000 * forward)]
        if anchor and (FLAGS.n, FLAGS.norm, FLAGS.eps, FLAGS.version, FLAGS.attacks) == (
            250,
            "linf",
            0.3,
            "standard",
            [],
        ):
            share = (1900 * gradient + 5900 * forward) / (1900 * REFERENCE_GRADIENT + 5900 * REFERENCE_FORWARD)
            row["reference here, s"] = round(REFERENCE_SECONDS * share)
            row["times as fast"] = round(REFERENCE_SECONDS * share / seconds, 2)
        print(json.dumps(row, indent=1), flush=True)
        content["runs"].append(row)
        if FLAGS.results:
            pathlib.Path(FLAGS.results).write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    common.run(main)
