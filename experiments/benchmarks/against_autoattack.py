"""The standard version of AutoAttack, ours against the authors' PyTorch code, in turns of seconds.

    python -m experiments.benchmarks.against_autoattack --weights=trades_mnist_smallcnn.pt --images=mnist.npz
        [--n=250] [--norm=linf] [--eps=0.3] [--turns=16,10] [--results=FILE]

Needs the authors' package `autoattack` (github fra31/auto-attack, not on PyPI) on the path, and PyTorch. The weights are
the TRADES authors' MNIST network. Each side is a process of its own that runs all stages (APGD-CE, APGD-T, FAB-T, Square),
each on the images that its own stages before have left. One process runs at a time, the other is stopped meanwhile
(SIGSTOP), so that both meet the machine as it is in the same minutes; only seconds in which a side runs are counted, from
when its network and images are loaded. Ours compiles on the way, which is in its seconds
(`experiments.benchmarks.autoattack` reports it apart). The seconds that the processor spent on a side are printed, too:
where other work is on the machine, `--side` alone, kept to one core, says more by them.
"""

from __future__ import annotations

import json
import os
import pathlib
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

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
flags.DEFINE_list("turns", ["16", "10"], "seconds of a turn, the authors' and ours, so that both end at about one time")
flags.DEFINE_enum("side", "both", ["both", "authors", "ours"], "run this side alone and print a line per stage")

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
    from advjax.cli.torch_definitions.small_cnn import SmallCNN

    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = SmallCNN().eval().to(device)
    net.load_state_dict(torch.load(FLAGS.weights, map_location=device, weights_only=True))
    images = torch.as_tensor(x.transpose(0, 3, 1, 2), device=device).contiguous()
    labels = torch.as_tensor(y, dtype=torch.long, device=device)
    norm = {"linf": "Linf", "l2": "L2"}[FLAGS.norm]
    suite = AutoAttack(net, norm=norm, eps=FLAGS.eps, seed=0, device=device, verbose=False)

    def run(stage: str, rows: np.ndarray) -> np.ndarray:
        suite.attacks_to_run = [STAGES[stage]]
        x_adv = suite.run_standard_evaluation(images[rows], labels[rows], bs=250 if device == "cpu" else 1000)
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


class Process:
    """A command whose lines of output are timed by the seconds in which it was let run; it begins stopped.

    Args:
        command: its arguments.
        environment: what it finds there beside what this process has.

    Attributes:
        seconds: how long it has run.
        ended: whether it has ended by itself.
        process: the process itself.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]):
        self.seconds = 0.0
        self.ended = False
        self.command = " ".join(command)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **environment})
        assert self.process.stdout is not None
        self._out = self.process.stdout
        self._rest = b""
        self.process.send_signal(signal.SIGSTOP)

    def turn(self, seconds: float) -> list[tuple[float, str]]:
        """Lets it run this long, or to its end; -> what it printed, with the seconds that it had run by then.

        Raises:
            InputError: it failed; it has said why.
        """
        lines, started = [], time.perf_counter()
        self.process.send_signal(signal.SIGCONT)
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            while (left := started + seconds - time.perf_counter()) > 0:
                if not selector.select(left):
                    break
                ran = self.seconds + time.perf_counter() - started
                piece = os.read(self._out.fileno(), 1 << 16)
                *whole, self._rest = (self._rest + piece).split(b"\n")
                lines += [(ran, line.decode()) for line in whole]
                if not piece:
                    self.ended = True
                    if status := self.process.wait():
                        raise InputError(f"{self.command} ended with status {status}")
                    break
        if not self.ended:
            self.process.send_signal(signal.SIGSTOP)
        self.seconds += time.perf_counter() - started
        return lines

    def kill(self) -> None:
        """Ends it, stopped or not."""
        self.process.kill()
        self.process.wait()


def in_turns(processes: Mapping[str, Process], seconds: Mapping[str, float]) -> Iterator[tuple[str, float, str]]:
    """Runs one process after the other, each for its seconds, until all have ended; yields (name, seconds run, line)."""
    try:
        while not all(process.ended for process in processes.values()):
            for name, process in processes.items():
                if not process.ended:
                    yield from ((name, *line) for line in process.turn(seconds[name]))
    finally:
        for process in processes.values():
            process.kill()


def one_side() -> None:
    """Prints a line once the network is loaded, and one per stage."""
    data = np.load(FLAGS.images)
    x = data["x_test"][: FLAGS.n].reshape(-1, 28, 28, 1).astype(np.float32) / 255
    y = data["y_test"][: FLAGS.n].astype(np.int32)
    attack = {"authors": theirs, "ours": ours}[FLAGS.side](x, y)
    print(json.dumps({"attack": "loaded"}), flush=True)
    left = np.arange(len(x))
    for stage in STAGES:
        before, started = time.process_time(), time.perf_counter()
        left = attack(stage, left) if len(left) else left
        line = {"attack": stage, "accuracy": 100.0 * len(left) / len(x)}
        line |= {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - before}
        print(json.dumps(line), flush=True)


def main() -> None:
    """Prints a row per stage and the sum."""
    if FLAGS.side != "both":
        return one_side()
    try:
        turns = dict(zip(("authors", "ours"), map(float, FLAGS.turns), strict=True))
    except ValueError:
        raise InputError(f"turns must be two numbers of seconds, it is {','.join(FLAGS.turns)}") from None
    report = common.Report(f"AutoAttack standard, {FLAGS.norm} {FLAGS.eps}, {FLAGS.n} images, in turns of {turns} s")
    command = [sys.executable, "-m", "experiments.benchmarks.against_autoattack", *sys.argv[1:]]
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    root = str(pathlib.Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    processes = {side: Process([*command, f"--side={side}"], environment) for side in turns}
    known: dict[str, dict[str, Any]] = {side: {} for side in turns}
    before: dict[str, float] = {}
    total, total_cpu = dict.fromkeys(turns, 0.0), dict.fromkeys(turns, 0.0)
    for side, ran, line in in_turns(processes, turns):
        content = json.loads(line)
        if content["attack"] != "loaded":
            known[side][content["attack"]] = content["accuracy"], ran - before[side], content["cpu_seconds"]
        before[side] = ran
        stage = content["attack"]
        if all(stage in outcomes for outcomes in known.values()):
            seconds = {side: known[side][stage][1] for side in turns}
            cpu = {side: known[side][stage][2] for side in turns}
            total = {side: total[side] + seconds[side] for side in turns}
            total_cpu = {side: total_cpu[side] + cpu[side] for side in turns}
            accuracy = {f"{side} %": known[side][stage][0] for side in turns}
            whole = [("all", total, total_cpu)] if stage == list(STAGES)[-1] else []
            for name, times, spent in ((stage, seconds, cpu), *whole):
                row = accuracy | {f"{side} s": times[side] for side in turns}
                row |= {f"{side} CPU s": spent[side] for side in turns}
                report.add("Accuracy and seconds", attack=name, **row, ratio=times["authors"] / times["ours"])


if __name__ == "__main__":
    common.run(main)
