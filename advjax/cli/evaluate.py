"""Evaluates a network on any protocol: a finished run, a weights file, or a function of your own.

    python -m experiments.evaluate --workdir=runs/trades --protocol=standard --out=runs/trades-aa
    python -m experiments.evaluate --weights=model.pt --network=wrn_34_10 --data=cifar10 --eps=0.031 --out=runs/teacher
    python -m experiments.evaluate --function=my.module:make_logits_fn --data=digits --eps=0.2 --out=runs/mine

`--function` names a function without arguments that returns a `logits_fn`: images [B, H, W, C] in [0, 1] -> logits.
Outcomes are written to `--out` as they are known; the same command again goes on from there. All devices are used, and
those of all processes that share the images out (`--hosts`, as `config.hosts`; docs/hosts.md).
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib
import json
import os
import pathlib
import sys
import traceback
from collections.abc import Callable

import advjax
from advjax import cli, data, evaluate, hosts, models, parallel, remote, threat
from advjax.attacks.engine.inputs import check_radius
from advjax.errors import InputError, shown, within
from advjax.evaluate import corruptions
from advjax.numbers import number
from advjax.runs import Config, compilation_cache, exhibits
from advjax.runs.build import load_data
from advjax.runs.evaluate import Subject, Surrogate, doubts, score, write_report
from advjax.runs.networks import create_method
from advjax.runs.teachers import from_run
from advjax.runs.workdir import check_place, load_whole, read_config, sha256_of, unfinished


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit status: 0 done, 1 failed, 2 bad input."""
    return cli.guarded(_run, argv)


def _options(argv: list[str]) -> argparse.Namespace:
    parser = cli.Parser("experiments.evaluate", __doc__)
    parser.add_argument("--workdir", default="", help="folder of a finished run")
    parser.add_argument(
        "--weights", default="", help="weights file: PyTorch, safetensors or DeepMind's .npy; needs --network"
    )
    parser.add_argument("--function", default="", help="module:function that returns a logits_fn")
    parser.add_argument("--network", default="", help="architecture of --weights, or which network of a run")
    parser.add_argument(
        "--options", default="{}", help='options of the architecture as JSON, e.g. {"mean": [0.5], "std": [0.2]}'
    )
    parser.add_argument("--checkpoint", default="best", help="of a run: best or last")
    parser.add_argument("--protocol", default="fast", help="see python -m experiments.run --list")
    parser.add_argument("--norm", default="", help="linf, l2 or l1; a run knows its own")
    parser.add_argument("--eps", default="", help="radius, e.g. 8/255; a run knows its own")
    parser.add_argument("--data", default="", help="data set; a run knows its own")
    parser.add_argument("--data_path", default="", help="npz file, folder of shards or images")
    parser.add_argument("--examples", default=0, type=int, help="the first n test images; 0: all")
    parser.add_argument("--batch_size", default=0, type=int, help="images at a time; 0: what suits the machine")
    parser.add_argument("--seed", default=0, type=int, help="of the attacks")
    parser.add_argument(
        "--surrogate", default="", help="folder of a finished run on which transfer attacks are crafted"
    )
    parser.add_argument("--corruptions", default="", help="folder of CIFAR-C's .npy files, for --protocol=corruptions")
    parser.add_argument("--out", default="", help="folder for report and records")
    parser.add_argument("--hosts", default=hosts.AUTO, help=hosts.ALLOWED)
    parser.add_argument(
        "--hosts_timeout", default=60.0, type=float, help="seconds after which a silent process is gone"
    )
    parser.add_argument("--compilation_cache", default="auto", help="auto, off or a folder")
    return parser.parse_args(argv[1:])


def _run(argv: list[str]) -> None:
    options = _options(argv)
    sources = [name for name in ("workdir", "weights", "function") if getattr(options, name)]
    if len(sources) != 1:
        raise InputError(f"exactly one of --workdir, --weights and --function must be given, not {sources or 'none'}")
    if options.examples < 0:
        raise InputError(f"--examples must be at least 0 (0: all), it is {options.examples}")
    if not 0 <= options.batch_size <= parallel.MOST_ROWS:
        allowed = f"between 0 (what suits the machine) and {parallel.MOST_ROWS:,}"
        raise InputError(f"--batch_size must be {allowed}, it is {shown(options.batch_size)}")
    if not options.out:
        raise InputError("--out is missing: --out=FOLDER")
    check_place(options.out, "--out")
    if options.hosts_timeout <= 0:
        raise InputError(f"--hosts_timeout must be above 0, it is {options.hosts_timeout:g}")
    with within("--"):
        hosts.join(options.hosts, options.hosts_timeout)
    with hosts.together():
        _evaluate(options)


def _evaluate(options: argparse.Namespace) -> None:
    own = ("hosts", "data_path", "compilation_cache")
    hosts.check_same({"version": advjax.__version__} | {k: v for k, v in vars(options).items() if k not in own})
    for name in ("workdir", "weights"):
        if place := getattr(options, name):
            setattr(options, name, str(remote.local(place, f"--{name}")))
    compilation_cache.enable(options.compilation_cache)
    known = read_config(options.workdir) if options.workdir else None
    norm = threat.canonical_norm(options.norm or (known.attack.norm if known else "linf"))
    eps = options.eps or (known.attack.eps if known else "")
    if not eps:
        raise InputError("--eps is missing: --eps=8/255, say")
    dataset = _load_data(options, known)
    check_radius(norm, number(eps, "--eps"), dataset.image_shape, "--eps")
    radii = dict(vars(known.evaluation.radii)) if known else None
    attacks = evaluate.protocol(options.protocol, norm, eps, radii, options.corruptions)
    subject, architecture, instead = _subject(options, dataset, known)
    surrogate = None
    if options.surrogate:
        network = from_run(options.surrogate, "--surrogate", dataset)
        surrogate = Surrogate(options.surrogate, advjax.logits_fn(*network))
    hosts.check_same({"the test set": sha256_of(dataset.test), "the network": subject.sha256})
    examples = options.examples or len(dataset.test.label)
    test = dataset.test.first(examples)
    if any(attack.images for attack in attacks):
        corruptions.check(options.corruptions, test)
    out = pathlib.Path(options.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out must be a folder that can be written to: {error.strerror}") from None
    hosts.check_shared(out, "--out")
    display = cli.display(options.quiet, options.json)
    results = score(
        subject,
        attacks,
        test,
        protocol=options.protocol,
        directory=out,
        display=display,
        seed=options.seed,
        batch_size=options.batch_size,
        devices=parallel.run_devices(),
        surrogate=surrogate,
    )
    if hosts.is_first():
        exhibits.collect(
            subject.logits_fn,
            attacks,
            dataset,
            out,
            network_hash=subject.sha256,
            eps=number(eps),
            examples=examples,
            seed=options.seed,
            batch_size=options.batch_size,
            devices=parallel.local_devices(),
        )
    settings = {name: getattr(options, name) for name in ("protocol", "examples", "seed", "data", "surrogate")}
    report = evaluate.assemble(
        known.method["name"] if known else subject.name,
        hashlib.sha256(json.dumps([settings, subject.sha256]).encode()).hexdigest()[:12],
        norm,
        number(eps),
        {subject.name: {"architecture": architecture, "params_sha256": subject.sha256}},
        results,
        data={"name": dataset.name, "test_sha256": sha256_of(dataset.test)},
        doubts=[
            *doubts(results, attacks, dataset.num_classes),
            *([instead] if instead else []),
            *(line for line in (unfinished(pathlib.Path(options.workdir)) if known else None,) if line),
        ],
    )
    if hosts.is_first():
        write_report(out, report, display)


def _load_data(options: argparse.Namespace, known: Config | None) -> data.Dataset:
    if options.data:
        return data.load(options.data, options.data_path or None)
    if known is None:
        raise InputError("--data is missing: --data=cifar10, say")
    return load_data(dataclasses.replace(known.data, path=options.data_path or known.data.path))


def _subject(options: argparse.Namespace, dataset: data.Dataset, known: Config | None) -> tuple[Subject, str, str]:
    """The network to be scored, its architecture's name, and a line if its checkpoint is another than was asked for."""
    precision, instead = "", ""
    if known is not None:
        precision = known.precision
        module, variables, _, instead = load_whole(options.workdir, options.network or None, options.checkpoint)
        name, checkpoint = options.network or create_method(known).evaluated[0], options.checkpoint
    elif options.weights:
        if not options.network:
            raise InputError(f"--network is missing: the architecture of --weights, one of {', '.join(models.names())}")
        try:
            settings = json.loads(options.options)
        except (ValueError, RecursionError) as error:
            raise InputError(f"--options must be JSON such as {{}}: {error}") from None
        if not isinstance(settings, dict) or {"name", "num_classes"} & set(settings):
            raise InputError(
                f"--options must be options of the architecture by name, such as {{}}, without its name and num_classes; "
                f"it is {shown(options.options)}"
            )
        module = models.create(options.network, dataset.num_classes, **settings)
        variables = models.load_torch(options.weights, module, dataset.image_shape)
        name, checkpoint = pathlib.Path(options.weights).stem, "given"
    else:
        logits_fn = _function(options.function)
        # The function's name stands for its weights, which cannot be seen from here.
        return Subject(options.function, "given", logits_fn, options.function, "float32"), options.function, ""
    sha256 = evaluate.params_sha256(variables)
    architecture, _ = models.describe(module)
    logits_fn = advjax.logits_fn(module, variables)
    subject = Subject(name, checkpoint, logits_fn, sha256, precision or getattr(module, "dtype", "float32"))
    return subject, architecture, instead


def _function(name: str) -> Callable:
    module, colon, attribute = name.partition(":")
    if not colon:
        raise InputError(f"--function must be module:function, it is {name!r}")
    sys.path.insert(0, os.getcwd())
    try:
        make = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"--function={name} cannot be imported: {error}") from None
    except Exception as error:  # a foreign module can fail in any way
        raise InputError(f"--function={name} cannot be imported: {_said(error)}") from error
    try:
        logits_fn = make()
    except Exception as error:
        raise InputError(f"--function={name} must be a function without arguments, it fails: {_said(error)}") from error
    if not callable(logits_fn):
        raise InputError(f"--function={name} must return a logits_fn, it returned {type(logits_fn).__name__}")
    return logits_fn


def _said(error: Exception) -> str:
    """What a foreign error says, in a line, and where in foreign code it was raised."""
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"
    where = traceback.extract_tb(error.__traceback__)[-1]
    inside = where.filename == __file__ or where.filename.startswith("<")
    return said if inside else f"{said} ({pathlib.Path(where.filename).name}, line {where.lineno})"


if __name__ == "__main__":
    sys.exit(main(sys.argv))
