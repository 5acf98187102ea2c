"""Makes the pages of a run anew, `report.html` and `report.md`, and figures for a paper, in `figures/`: PNG, PDF, SVG.

    python -m experiments.report --workdir=runs/trades
    advjax-report --workdir=runs/trades              # the same, anywhere, once advjax is installed

For runs that were finished before there were pages, too: what the page needs and was not kept is computed from the
checkpoint and the data. The numbers are those of `report.json`, which stays as it is.
"""

from __future__ import annotations

import pathlib
import sys

from advjax import cli, evaluate, models
from advjax.errors import InputError
from advjax.runs import build, compilation_cache, pages
from advjax.runs.evaluate import collect_exhibits
from advjax.runs.workdir import check_place, load_run, need_report, read_config


def main(argv: list[str]) -> int:
    """Runs the command line and returns the exit status: 0 done, 1 failed, 2 bad input."""
    return cli.guarded(_run, argv)


def _run(argv: list[str]) -> None:
    parser = cli.Parser("experiments.report", __doc__)
    parser.add_argument("--workdir", default="", help="folder of a finished run, or of an evaluation (its --out)")
    options = parser.parse_args(argv[1:])
    if not options.workdir:
        raise InputError("--workdir is missing: --workdir=FOLDER")
    check_place(options.workdir, "--workdir")
    folder, display = pathlib.Path(options.workdir), cli.display(options.quiet, options.json)
    report = need_report(folder, whole=True)
    if (folder / "config.json").exists():
        try:
            _complete(folder, report)
        except InputError as error:
            display.line(f"warning: the page has no images and no predictions: {error}")
    pages.write(folder, report, files=True)
    display.line(f"page: {folder / 'report.html'}, figures: {folder / pages.FIGURES}")


def _complete(folder: pathlib.Path, report: dict) -> None:
    """Makes the exhibits, unless they are there."""
    config = read_config(folder)
    compilation_cache.enable(config.compilation_cache)
    experiment, (network, checkpoint) = build(config), pages.detailed(report)
    module, variables = load_run(folder, network, checkpoint)
    place, sha256 = pages.records_folder(folder, report), evaluate.params_sha256(variables)
    collect_exhibits(experiment, models.logits_fn(module, variables), place, sha256)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
