"""All benchmarks, one after the other.

    python -m experiments.benchmarks [--scale=toy|cpu|gpu] [--only=loops,train_step,...] [--results=FILE]
        [--weights=trades_mnist_smallcnn.pt --images=mnist.npz]

Every benchmark is a process of its own, so that none runs in the memory and caches of another; each prints its tables.
`--results` gets hardware, versions, commands and rows of all. `toy` shows that everything runs, in minutes on two cores;
`cpu` and `gpu` are the scales of the published figures. The AutoAttack benchmark wants a real network and images, the
TRADES authors' on MNIST: it is left out where `--weights` and `--images` are not given. Exit status 1 if one fails.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import flags

from advjax.errors import unknown
from experiments.benchmarks import common

FLAGS = flags.FLAGS
flags.DEFINE_string("weights", "", "the network that the AutoAttack benchmark attacks")
flags.DEFINE_string("images", "", "the images of the AutoAttack benchmark")
flags.DEFINE_enum("scale", "toy", ["toy", "cpu", "gpu"], "sizes")
flags.DEFINE_list("only", [], "names of benchmarks; all if absent")

TINY = ["--network=tiny_cnn", "--width=8", "--size=8", "--batch=8", "--repeats=2"]
# Benchmark -> scale -> its flags.
BENCHMARKS: dict[str, dict[str, list[str]]] = {
    "loops": {
        "toy": ["--width=8", "--batch=8", "--steps=3"],
        "cpu": [],
        "gpu": ["--width=64", "--batch=512", "--steps=10"],
    },
    "convolutions": {
        "toy": ["--width=4", "--batch=4", "--size=8", "--repeats=2"],
        "cpu": ["--repeats=9"],
        "gpu": ["--width=64", "--batch=512", "--repeats=20"],
    },
    "networks": {
        "toy": ["--scale=toy", "--networks=resnet18,tiny_cnn", "--dtypes=float32"],
        "cpu": ["--batch=8"],
        "gpu": ["--batch=256"],
    },
    "train_step": {
        "toy": [*TINY, "--steps=2", "--methods=trades", "--method_steps=2"],
        "cpu": [],
        "gpu": ["--width=0", "--batch=512", "--precision=bfloat16", "--repeats=10"],
    },
    "compile_options": {
        "toy": ["--networks=tiny_cnn:8:8", "--size=8", "--steps=2", "--repeats=2"],
        "cpu": [],
        # There is nothing to choose on an accelerator.
    },
    "against_torch": {
        "toy": ["--networks=tiny_cnn:8:8", "--size=8", "--steps=2", "--forms=ours,default,channels_last"],
        "cpu": [],
        "gpu": ["--networks=resnet18:16:512,resnet18:64:512,wrn_34_10:10:128", "--repeats=10"],
    },
    "accelerator": {
        "toy": ["--toy", "--out={folder}"],
        "cpu": ["--width=16", "--networks=resnet18", "--precisions=float32", "--batches=128", "--out={folder}"],
        "gpu": ["--trace", "--repeats=5", "--out={folder}"],
    },
    "growth": {
        "toy": [*TINY, "--batches=4,8,16", "--classes=10,100", "--peers=1,2", "--devices=1,2", "--version=fast"],
        "cpu": [],
        "gpu": ["--width=64", "--batch=512", "--batches=128,256,512,1024", "--steps=10"],
    },
    "input_pipeline": {
        "toy": ["--pictures=64", "--memory=64,128", "--batch=16", "--workers=1", "--chips=TPU v5e", "--steps=3"],
        "cpu": ["--memory=2000,20000,200000"],
        "gpu": ["--memory=2000,20000,200000"],
    },
    "autoattack": {"toy": ["--n=4", "--batch=4"], "cpu": [], "gpu": ["--n=1000", "--batch=500"]},
}


def _flags_of(name: str, file: pathlib.Path) -> list[str]:
    given = [text.format(folder=file.with_suffix("")) for text in BENCHMARKS[name].get(FLAGS.scale, [])]
    if name == "autoattack":
        given += [f"--weights={FLAGS.weights}", f"--images={FLAGS.images}"]
    return given


def main() -> None:
    """Runs them all."""
    for name in FLAGS.only:
        if name not in BENCHMARKS:
            raise unknown("benchmark (--only)", name, BENCHMARKS)
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        # Beside the JSON file there is a folder for what else a benchmark writes.
        folder = pathlib.Path(FLAGS.results).with_suffix("") if FLAGS.results else pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in FLAGS.only or [name for name, scales in BENCHMARKS.items() if FLAGS.scale in scales]:
            if name == "autoattack" and not (FLAGS.weights and FLAGS.images):
                print("autoattack: left out, it needs --weights and --images\n", flush=True)
                continue
            file = folder / f"{name}.json"
            command = ["-m", f"experiments.benchmarks.{name}", *_flags_of(name, file)]
            print(f"{'=' * 100}\npython {' '.join(command)}\n", flush=True)
            started = time.perf_counter()
            status = subprocess.run([sys.executable, *command, f"--results={file}"]).returncode
            content = json.loads(file.read_text()) if file.exists() else {}
            result = {"benchmark": name, "status": status, "seconds": time.perf_counter() - started, **content}
            results.append({**result, "command": f"python {' '.join(command)}"})
            print(f"\n{name}: status {status}, {result['seconds']:.0f} s\n", flush=True)
    if FLAGS.results:
        content = {"command": " ".join(["python -m experiments.benchmarks", *sys.argv[1:]]), "benchmarks": results}
        pathlib.Path(FLAGS.results).write_text(json.dumps(content, indent=2) + "\n")
    failed = [result["benchmark"] for result in results if result["status"]]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    common.run(main)
