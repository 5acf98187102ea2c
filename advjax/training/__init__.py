"""Training: steps made from methods, the loop, the optimizer and its schedules, checkpoints."""

from advjax.training.checkpoints import Checkpoints
from advjax.training.loop import Meter, Trainer, average, check_streams
from advjax.training.schedules import adamw, learning_rate, sgd
from advjax.training.state import TrainState
from advjax.training.step import StepConfig, make_step

__all__ = [
    "Checkpoints",
    "Meter",
    "StepConfig",
    "TrainState",
    "Trainer",
    "adamw",
    "average",
    "check_streams",
    "learning_rate",
    "make_step",
    "sgd",
]
