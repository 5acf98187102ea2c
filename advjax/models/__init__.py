"""Networks: flax linen modules, NHWC, called `module.apply(variables, images, train=False)`; adapters for others."""

from advjax.models.adapters import Adapter, from_equinox, from_haiku, from_init_apply, from_nnx
from advjax.models.checks import check_variables
from advjax.models.functional import is_stochastic, logits_fn, training_forward
from advjax.models.layers import BatchNorm, Conv, ImageClassifier, Linear, Train, TrainMode, max_pool_2x2
from advjax.models.registry import create, describe, init, names, options, parameter_count, variable_shapes
from advjax.models.torch_io import load_teacher, load_torch, save_torch

__all__ = [
    "Adapter",
    "BatchNorm",
    "Conv",
    "ImageClassifier",
    "Linear",
    "Train",
    "TrainMode",
    "check_variables",
    "create",
    "describe",
    "from_equinox",
    "from_haiku",
    "from_init_apply",
    "from_nnx",
    "init",
    "is_stochastic",
    "load_teacher",
    "load_torch",
    "logits_fn",
    "max_pool_2x2",
    "names",
    "options",
    "parameter_count",
    "save_torch",
    "training_forward",
    "variable_shapes",
]
