"""Programs compiled for accelerators that are not there, and what the compiler says of them."""

from advjax.aot.chips import CHIPS, devices, parse, prepare
from advjax.aot.programs import NAMES, experiment, tasks
from advjax.aot.report import HEADER, DoesNotFit, cells, compile_task, largest_batch
from advjax.arithmetic import flops

__all__ = [
    "CHIPS",
    "HEADER",
    "NAMES",
    "DoesNotFit",
    "cells",
    "compile_task",
    "devices",
    "experiment",
    "flops",
    "largest_batch",
    "parse",
    "prepare",
    "tasks",
]
