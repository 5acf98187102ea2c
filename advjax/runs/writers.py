"""Where the records of a training go beside `metrics.jsonl`: TensorBoard, Weights & Biases, MLflow, one's own."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from advjax import plugins
from advjax.errors import InputError
from advjax.files import write_atomically
from advjax.runs import exhibits


class Writer(Protocol):
    """What takes the records of a training: `package.module:Class`, made as `Class(workdir, step)`.

    `step` is the step that the run resumes at; later records of an earlier attempt are void. `config.json` lies in the
    workdir by then. A writer that has a method `report(report)` as well is made once more when the run is evaluated, and
    gets what `report.json` holds.
    """

    def write(self, record: Mapping[str, Any]) -> None:
        """Takes a record: `step`, `epoch`, `seconds`, `loss` and more, numbers by name."""

    def close(self) -> None:
        """No record comes after."""


class TensorBoard:
    """TensorBoard events in the folder `tensorboard`; results as scalars, the config as text."""

    def __init__(self, workdir: pathlib.Path, step: int) -> None:
        from tensorboardX import SummaryWriter

        self._workdir, self._step = workdir, step
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1 if step else None)
        if not step and (workdir / "config.json").exists():
            self._events.add_text("config", "    " + (workdir / "config.json").read_text().replace("\n", "\n    "), 0)

    def write(self, record: Mapping[str, Any]) -> None:
        """Every number of the record as a scalar."""
        for name, value in _numbers(record).items():
            self._events.add_scalar(name, value, record["step"])

    def report(self, report: Mapping[str, Any]) -> None:
        """Every accuracy of the report as a scalar at the last step, and the images that were attacked."""
        for name, value in results(report).items():
            self._events.add_scalar(name, value, self._step)
        for folder in sorted((self._workdir / "evaluation").glob("*")):
            if (shown := exhibits.read(folder)) is not None and len(shown.image):
                pairs = {"clean": shown.image / 255, "adversarial": shown.image / 255 + shown.perturbation}
                for name, images in pairs.items():
                    self._events.add_images(f"{folder.name}/{name}", images.clip(0, 1), self._step, dataformats="NHWC")

    def close(self) -> None:
        """Closes the file."""
        self._events.close()


class WandB:
    """Weights & Biases: a run with the config; `WANDB_MODE`, `WANDB_PROJECT` and so on decide where, as everywhere.

    The run's id lies in `wandb-run.txt`, so that a run that resumes goes on in the same place.
    """

    needs = "wandb"

    def __init__(self, workdir: pathlib.Path, step: int) -> None:
        import wandb

        known = _remembered(workdir / "wandb-run.txt")
        config = json.loads((workdir / "config.json").read_text())
        if known is not None:
            time.sleep(1.0)  # offline, folders are named by the second: two in one would be one, and lose the first
        options: dict[str, Any] = {"dir": str(workdir), "name": workdir.name, "settings": wandb.Settings(silent=True)}
        self._run = wandb.init(id=known, resume="allow", config=config, **options)
        write_atomically(workdir / "wandb-run.txt", self._run.id)
        self._run.define_metric("*", step_metric="step")  # a run that resumes may go back some steps

    def write(self, record: Mapping[str, Any]) -> None:
        """Every number of the record."""
        self._run.log({"step": record["step"], **_numbers(record)})

    def report(self, report: Mapping[str, Any]) -> None:
        """Every accuracy of the report; a run's summary has what was logged last."""
        self._run.log(results(report))

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


class MLflow:
    """MLflow: a run with the config as parameters; `MLFLOW_TRACKING_URI` and so on decide where, as everywhere.

    The run's id lies in `mlflow-run.txt`, so that a run that resumes goes on in the same place.
    """

    needs = "mlflow"

    def __init__(self, workdir: pathlib.Path, step: int) -> None:
        import mlflow

        known = _remembered(workdir / "mlflow-run.txt")
        self._mlflow = mlflow
        self._run = mlflow.start_run(run_id=known, run_name=None if known else workdir.name)
        if known is None:
            write_atomically(workdir / "mlflow-run.txt", self._run.info.run_id)
            mlflow.log_params(_flat(json.loads((workdir / "config.json").read_text())))

    def write(self, record: Mapping[str, Any]) -> None:
        """Every number of the record as a metric."""
        self._mlflow.log_metrics(_numbers(record), step=record["step"])

    def report(self, report: Mapping[str, Any]) -> None:
        """Every accuracy of the report as a metric."""
        self._mlflow.log_metrics(results(report))

    def close(self) -> None:
        """Ends the run."""
        self._mlflow.end_run()


WRITERS: dict[str, Any] = {"wandb": WandB, "mlflow": MLflow}


def make_writers(names: Sequence[str]) -> list[type[Writer]]:
    """The classes of writers by name; looked up before a run begins.

    Raises:
        InputError: no such class, or its library is not installed.
    """
    try:
        found = [WRITERS.get(name) or plugins.resolve(name, "writer", WRITERS) for name in names]
    except InputError as error:
        raise InputError(f"log.writers: {error}") from None
    for name, cls in zip(names, found, strict=True):
        if not all(hasattr(cls, each) for each in ("write", "close")):
            raise InputError(f"must have the methods write and close, {name} has not", "log.writers")
        needs = getattr(cls, "needs", None)
        if needs and importlib.util.find_spec(needs) is None:
            raise InputError(f"{name} needs a library that is not installed: pip install {needs}", "log.writers")
    return found


def publish(writers: Sequence[type[Writer]], workdir: pathlib.Path, step: int, report: Mapping[str, Any]) -> None:
    """Hands the report to those writers that take one."""
    for make in writers:
        if hasattr(make, "report"):
            writer = make(workdir, step)  # type: ignore[call-arg]
            try:
                writer.report(report)  # type: ignore[attr-defined]
            finally:
                writer.close()


def results(report: Mapping[str, Any]) -> dict[str, float]:
    """The accuracies of a report by `network/checkpoint/attack`."""
    return {f"{r['network']}/{r['checkpoint']}/{r['attack']}": r["accuracy"] for r in report["results"]}


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in record.items() if isinstance(value, (int, float)) and name != "step"}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _remembered(path: pathlib.Path) -> str | None:
    return path.read_text(encoding="utf-8").strip() or None if path.exists() else None
