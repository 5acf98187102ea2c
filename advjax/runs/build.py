"""From a config to everything that a run needs. All bad input is found here, before compilation."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import optax
from ml_collections import ConfigDict

from advjax import data, models, parallel, remote
from advjax.attacks.engine.inputs import check_radius
from advjax.data import Dataset, Split
from advjax.errors import InputError, within
from advjax.evaluate import corruptions, protocol
from advjax.files import is_there
from advjax.methods import Method
from advjax.numbers import number
from advjax.runs import schema, teachers
from advjax.runs.experiment import Experiment, Parts
from advjax.runs.networks import check_fits, create_method, create_modules
from advjax.runs.schema import Config, DataConfig
from advjax.runs.workdir import check_finished, load_run
from advjax.runs.writers import TensorBoard, Writer, make_writers
from advjax.training import check_streams, schedules
from advjax.training.loop import check_augment
from advjax.training.step import check_microbatches


def build(config: Config | ConfigDict | Mapping[str, Any], parts: Parts | None = None) -> Experiment:
    """Everything that a config names.

    Args:
        config: a config, or its plain values (`advjax.runs.default`).
        parts: the data, if it is there already (a teacher is trained on its student's).

    Raises:
        InputError: any field that is wrong; the line names it.
    """
    config = config if isinstance(config, Config) else schema.read(config)
    method = create_method(config)
    with within("data."):
        check_augment(method, config.data.augment)
    devices = parallel.run_devices(config.devices)
    parallel.check_batch_size(config.batch_size, devices)
    check_microbatches(method, config.microbatches, config.batch_size, len(devices))
    attacks = _attacks(config, method)
    parts = parts or load_parts(config)
    dataset = parts.dataset
    most = -(-len(dataset.train.label) // len(devices)) * len(devices)
    if config.batch_size > most:
        raise InputError(
            f"must be at most {most}, since there are {len(dataset.train.label)} training images (data.examples, "
            "data.validation)",
            "batch_size",
        )
    if parts.extra is not None and int(config.data.extra.ratio * config.batch_size + 1e-6) == 0:
        raise InputError(
            f"is {config.data.extra.ratio:g}, which leaves no extra image in a batch of {config.batch_size}; allowed: "
            f"from 1/{config.batch_size} on, below 1",
            "data.extra.ratio",
        )
    if dataset.num_classes < 2:
        raise InputError("has a single class; allowed: two or more, or no attack has a direction", "data.path")
    check_radius(config.attack.norm, number(config.attack.eps), dataset.image_shape, "attack.eps")
    if any(attack.images for attack in attacks):
        corruptions.check(config.evaluation.corruptions, dataset.test.first(config.evaluation.examples))
    if not dataset.train.in_memory:
        _check_streams(config, method)
    found = teachers.find(config, method, parts, build)
    surrogate, name = None, config.evaluation.surrogate
    if name and name not in method.frozen:
        surrogate = teachers.from_run(name, "evaluation.surrogate", dataset)
    modules = create_modules(config, method, dataset.num_classes)
    modules |= {name: teacher.module for name, teacher in found.items()}
    for network, module in modules.items():
        check_fits(network, module, dataset.image_shape)
    steps = -(-len(dataset.train.label) // config.batch_size)
    optimizer, schedule = create_optimizer(config, steps, method)
    given = _initial(config.init_from, modules, method, dataset.image_shape) if config.init_from else {}
    writers: list[type[Writer]] = [
        *([TensorBoard] if config.log.tensorboard else []),
        *make_writers(config.log.writers),
    ]
    return Experiment(
        config, parts, method, modules, optimizer, schedule, devices, given, found, attacks, writers, surrogate
    )


def _check_streams(config: Config, method: Method) -> None:
    try:
        check_streams(method, config.epochs, config.data.augment, bool(config.data.extra.path))
    except InputError as error:
        raise InputError(f"data.streaming: the images {error.tail}") from None
    if method.views > 1 and config.data.crop == "random":
        raise InputError(
            "must be centre, since the method sees several views of an image, and all of one crop", "data.crop"
        )


def load_data(fields: DataConfig) -> Dataset:
    """The data set that `config.data` names, validation part included."""
    return data.load(
        fields.name,
        fields.path or None,
        image_size=fields.image_size,
        num_classes=fields.num_classes,
        data_dir=fields.data_dir,
        resize=fields.resize,
        crop=fields.crop,
        streaming=fields.streaming,
    )


def load_parts(config: Config, rehearsal: bool = False) -> Parts:
    """The data, with the validation part taken out of the training set.

    Args:
        config: of the run.
        rehearsal: whether a named data set that is not prepared is stood in for by one of its size.
    """
    try:
        dataset = load_data(config.data)
    except InputError:
        if not rehearsal or config.data.path or config.data.name not in data.SIZES:
            raise
        dataset = data.stand_in(config.data.name)
    train, validation, index = data.split_validation(dataset.train, config.data.validation, config.seed)
    if config.data.examples:
        train = data.subset(train, config.data.examples)
    if config.data.label_noise:
        labels, _ = data.inject_label_noise(train.label, config.data.label_noise, dataset.num_classes, config.seed)
        train = train._replace(label=labels)
    if len(train.label) < dataset.num_classes:
        raise InputError(
            f"data.validation and data.examples leave {len(train.label)} of {len(dataset.train.label)} images to train on; "
            f"allowed: at least {dataset.num_classes}, one per class"
        )
    extra, warnings = _extra(config, dataset), dataset.warnings
    if extra is None:
        given = {"ratio": config.data.extra.ratio or None, "labels": config.data.extra.labels}
        ignored = [f"data.extra.{name} is {value}" for name, value in given.items() if value not in (None, "label")]
        nothing = ", but without data.extra.path there are no extra images"
        warnings = (*warnings, *(line + nothing for line in ignored))
    return Parts(dataset._replace(train=train, warnings=warnings), validation, index, extra)


def _extra(config: Config, dataset: Dataset) -> Split | None:
    """The extra images, if there are any."""
    fields = config.data.extra
    if not fields.path:
        return None
    return data.read_extra(fields.path, dataset.image_shape, dataset.num_classes, fields.labels)


MOMENTUM_CYCLES = {"cyclic": schedules.cycle, "onecycle": schedules.cosine_cycle}


def create_optimizer(
    config: Config, steps_per_epoch: int, method: Method, factor: float = 1.0
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer with `factor` times the learning rate, and that rate by step.

    A network that is updated several times in a step has the same rate each time.
    """
    fields, own = dict(vars(config.schedule)), dict(vars(config.optimizer))
    updates = sum(method.trained[0] in names for names in method.update_groups)
    low, peak, momentum = fields.pop("low_momentum"), factor * own.pop("learning_rate"), own.pop("momentum")
    with within("schedule."):
        rate = schedules.learning_rate(fields.pop("name"), peak, config.epochs, steps_per_epoch, **fields)
        if low and config.schedule.name not in MOMENTUM_CYCLES:
            raise InputError(
                "must be 0 unless schedule.name is cyclic or onecycle: the others do not cycle the momentum",
                "low_momentum",
            )
        if config.schedule.warmup and config.schedule.name not in ("piecewise", "cosine"):
            raise InputError("must be 0 unless schedule.name is piecewise or cosine: the others have none", "warmup")
    name, beta2 = own.pop("name"), own.pop("beta2")
    if name == "adamw":
        if low or own.pop("nesterov"):
            field = "schedule.low_momentum" if low else "optimizer.nesterov"
            raise InputError("must be 0 or False, since optimizer.name is adamw", field)
        return schedules.adamw(lambda count: rate(count // updates), momentum=momentum, beta2=beta2, **own), rate
    if low:
        cycle = MOMENTUM_CYCLES[config.schedule.name]
        course = cycle(momentum, low, config.epochs * steps_per_epoch, config.schedule.peak_at)
        momentum = lambda count: course(count // updates)  # noqa: E731
    return schedules.sgd(lambda count: rate(count // updates), momentum=momentum, **own), rate


def _attacks(config: Config, method: Method):
    evaluation, name = config.evaluation, config.evaluation.surrogate
    a_run = remote.is_address(name) or is_there(pathlib.Path(name) / "config.json")
    if name and name not in method.frozen and not a_run:
        allowed = ", ".join(["empty", *method.frozen, "the folder of a finished run"])
        raise InputError(f"must be one of: {allowed}; it is {name!r}", "evaluation.surrogate")
    radii = {norm: getattr(evaluation.radii, norm) for norm in ("linf", "l2", "l1")}
    with within("evaluation."):
        return protocol(evaluation.protocol, config.attack.norm, config.attack.eps, radii, evaluation.corruptions)


def _initial(source: str, modules: Mapping[str, nn.Module], method: Method, image_shape) -> dict[str, Any]:
    """Variables for every trained network, from a finished run's folder or a weights file."""
    path = remote.local(source, "init_from")
    if not is_there(path):
        raise InputError(f"must be the folder of a run or a weights file, there is nothing at {source}", "init_from")
    given = {}
    try:
        if path.is_dir():
            check_finished(path)
        for name in method.trained:
            if name in method.pretrained:
                continue
            if path.is_dir():
                variables = load_run(path, None if len(method.trained) == 1 else name)[1]
            else:
                variables = models.load_torch(path, modules[name], image_shape)
            models.check_variables(variables, modules[name], image_shape, source)
            given[name] = variables
    except InputError as error:
        raise InputError(f"init_from: {error}") from None
    return given
