"""Networks: flax linen modules, NHWC, called `module.apply(variables, images, train=False)`."""

from advjax.models.functional import logits_fn
from advjax.models.layers import BatchNorm, Conv, ImageClassifier, Linear, Train, TrainMode, max_pool_2x2
from advjax.models.published import load_teacher
from advjax.models.registry import create, describe, init, names, options, parameter_count, variable_shapes
from advjax.models.torch_io import load_torch, save_torch

__all__ = [
    "BatchNorm",
    "Conv",
    "ImageClassifier",
    "Linear",
    "Train",
    "TrainMode",
    "create",
    "describe",
    "init",
    "load_teacher",
    "load_torch",
    "logits_fn",
    "max_pool_2x2",
    "names",
    "options",
    "parameter_count",
    "save_torch",
    "variable_shapes",
]
