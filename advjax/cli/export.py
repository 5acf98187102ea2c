"""Writes a network of a finished run for others: weights, a model card, and for PyTorch the network's definition.

python -m experiments.export --workdir=runs/trades --format=torch|safetensors|orbax [--network=NAME] [--checkpoint=best]

The files go to the workdir's `export/FORMAT`, or to `--out`. `network.py` beside a PyTorch export needs PyTorch alone:
`load()` gives the network, images [B, C, H, W] in [0, 1] to logits, as AutoAttack and RobustBench call it.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
import sys
from typing import Any

import flax.linen as nn
import jax

from advjax import cli, remote
from advjax.errors import InputError, unknown
from advjax.evaluate import params_sha256
from advjax.files import read_json, write_atomically
from advjax.models import ImageClassifier, describe, save_torch
from advjax.runs.workdir import check_place, load_run, read_data, read_report, unfinished
from advjax.version import __version__

FORMATS = {"torch": "weights.pt", "safetensors": "weights.safetensors", "orbax": "weights"}
DEFINITIONS = pathlib.Path(__file__).parent / "torch_definitions"
OURS_ALONE = ("parent", "name", "dtype", "forward_mode", "num_classes")
USAGE = {
    "torch": "from network import load\n\nmodel = load()  # images [B, C, H, W] in [0, 1] to logits",
    "safetensors": "from network import load\n\nmodel = load()  # images [B, C, H, W] in [0, 1] to logits",
    "orbax": (
        "import orbax.checkpoint as ocp\nfrom advjax import logits_fn, models\n\n"
        "module = models.create({create})\n"
        'variables = ocp.StandardCheckpointer().restore("/absolute/path/of/weights")\n'
        "f = logits_fn(module, variables)  # images [B, H, W, C] in [0, 1] to logits"
    ),
}


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit status: 0 done, 1 failed, 2 bad input."""
    return cli.guarded(_command, argv)


def _command(argv: list[str]) -> None:
    parser = cli.Parser("experiments.export", __doc__)
    parser.add_argument("--workdir", required=True, help="folder of a finished run")
    parser.add_argument("--format", required=True, help=", ".join(FORMATS))
    parser.add_argument("--network", help="name in the run's method; the first that it evaluates if absent")
    parser.add_argument("--checkpoint", default="best", help="best or last")
    parser.add_argument("--out", help="folder to write to; WORKDIR/export/FORMAT if absent")
    parser.add_argument("--sub_block1", action="store_true", help="with the dead block of TRADES' Wide ResNets")
    arguments = parser.parse_args(argv[1:])
    if arguments.format not in FORMATS:
        raise unknown("format", arguments.format, FORMATS)
    if remote.is_address(arguments.workdir) and not arguments.out:
        raise InputError(f"--out is missing: --out=FOLDER, since --workdir is {arguments.workdir}")
    check_place(arguments.out or "", "--out")
    workdir = remote.local(arguments.workdir, "--workdir")
    folder = export(
        workdir,
        arguments.format,
        pathlib.Path(arguments.out) if arguments.out else None,
        network=arguments.network,
        checkpoint=arguments.checkpoint,
        sub_block1=arguments.sub_block1,
    )
    if line := unfinished(workdir):
        print(f"warning: {line}")
    print(f"exported: {folder}")


def export(
    workdir: pathlib.Path,
    format: str,
    out: pathlib.Path | None = None,
    *,
    network: str | None = None,
    checkpoint: str = "best",
    sub_block1: bool = False,
) -> pathlib.Path:
    """Writes a run's network and its model card.

    Args:
        workdir: folder of the run.
        format: one of `FORMATS`.
        out: folder to write to, `workdir/export/FORMAT` if absent.
        network: name of the network in the run's method, the first that it evaluates if absent.
        checkpoint: "best" or "last".
        sub_block1: write the dead block of TRADES' Wide ResNets too.

    Returns:
        The folder.

    Raises:
        InputError: no such run, network or checkpoint; PyTorch is absent; the folder cannot be written.
    """
    module, variables = load_run(workdir, network, checkpoint)
    config, data, report = read_json(workdir, "config.json"), read_data(workdir), read_report(workdir)
    folder = out or workdir / "export" / format
    definition = torch_definition(module, tuple(data["image_shape"]), format, sub_block1) if format != "orbax" else ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_weights(folder / FORMATS[format], format, module, variables, sub_block1)
        if definition:
            write_atomically(folder / "network.py", definition)
        card = _card(module, variables, config, data, report, format, checkpoint, network, unfinished(workdir))
        write_atomically(folder / "model_card.md", card)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}") from None
    return folder


def _write_weights(path: pathlib.Path, format: str, module: nn.Module, variables: Any, sub_block1: bool) -> None:
    if format != "orbax":
        return save_torch(path, module, variables, sub_block1=sub_block1)
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), variables, force=True)
    return None


def torch_definition(module: nn.Module, image_shape: tuple[int, int, int], format: str, sub_block1: bool) -> str:
    """A Python file that defines the network in plain PyTorch and loads the weights beside it.

    Args:
        module: the linen module.
        image_shape: (H, W, C).
        format: "torch" or "safetensors".
        sub_block1: whether the weights hold TRADES' dead block.
    """
    class_name = type(module).__name__
    family = type(module).__module__.rpartition(".")[2]
    if not (DEFINITIONS / f"{family}.py").is_file() or not isinstance(module, ImageClassifier):
        raise InputError(
            f"--format must be orbax for {class_name}, a network from outside: it has no PyTorch definition"
        )
    options = {"num_classes": module.num_classes, **_options(module), "channels": image_shape[2]}
    body = (DEFINITIONS / f"{family}.py").read_text(encoding="utf-8").split("\n", 1)[1]
    if "size=" in body:
        options["size"] = image_shape[:2]
    if sub_block1:
        options["sub_block1"] = True
    base = (DEFINITIONS / "base.py").read_text(encoding="utf-8")
    base = re.sub(r"__all__ = .*\n\n", "", base.split("\n", 1)[1])
    arguments = "".join(f"        {name}={value!r},\n" for name, value in options.items())
    load = {
        "torch": "torch.load(path, map_location='cpu', weights_only=True)",
        "safetensors": "safetensors.torch.load_file(path)",
    }[format]
    extra = "import safetensors.torch\n" if format == "safetensors" else ""
    return (
        f'"""{class_name}, exported by advjax {__version__}. Needs PyTorch alone."""\n\n'
        f"import pathlib\n\n{extra}{base.strip()}\n\n\n{body.strip()}\n\n\n"
        f"def build():\n    return {class_name}(\n{arguments}    )\n\n\n"
        f"def load(path=pathlib.Path(__file__).with_name({FORMATS[format]!r})):\n"
        f"    model = build()\n    model.load_state_dict({load}, strict=True)\n    return model.eval()\n"
    )


def _options(module: nn.Module) -> dict[str, Any]:
    return {f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in OURS_ALONE}


def _card(
    module: nn.Module,
    variables: Any,
    config: dict[str, Any],
    data: dict[str, Any],
    report: dict[str, Any] | None,
    format: str,
    checkpoint: str,
    network: str | None,
    doubt: str,
) -> str:
    name, options = describe(module)
    call = ", ".join([repr(name), str(module.num_classes), *(f"{k}={v!r}" for k, v in options.items())])
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    attack = config["attack"]
    lines = [
        f"# {name}, trained by {config['method']['name']}",
        "",
        f"- architecture: `advjax.models.create({call})`, {count:,} parameters",
        f"- data: {data['name']}, images of shape {tuple(data['image_shape'])} in [0, 1]",
        f"- threat model: {attack['norm']}, epsilon {attack['eps']}",
        f"- checkpoint: {checkpoint}; written by advjax {__version__}",
        f"- SHA-256 of parameters and statistics: `{params_sha256(variables)}`",
        *([f"- warning: {doubt}"] if doubt else []),
        "",
        "## Use",
        "",
        "```python",
        USAGE[format].replace("{create}", call),
        "```",
        "",
        "## Results",
        "",
        *_results(report, network, checkpoint),
        "",
        "## Config",
        "",
        "```json",
        json.dumps(config, indent=2),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _results(report: dict[str, Any] | None, network: str | None, checkpoint: str) -> list[str]:
    if report is None:
        return ["Not evaluated yet."]
    network = network or next(iter(report["networks"]))
    rows = [row for row in report["results"] if row["network"] == network]
    # A run without a validation split has no best checkpoint: its last one is exported in its place.
    rows = [row for row in rows if row["checkpoint"] == checkpoint] or rows
    table = ["| attack | norm | epsilon | accuracy | images |", "|---|---|---|---:|---:|"]
    for row in rows:
        accuracy = f"{100 * row['accuracy']:.2f} %"
        table.append(f"| {row['attack']} | {row['norm']} | {row['eps_text']} | {accuracy} | {row['n']} |")
    warned = [f"Warning: {warning}" for warning in report["warnings"]]
    return [*table, *([""] if warned else []), *warned]


if __name__ == "__main__":
    sys.exit(main(sys.argv))
