"""How the tensors of a network are called and laid out in PyTorch files.

A flax path `("layer1_0", "conv1", "kernel")` becomes `layer1.0.conv1.weight`; families whose public code uses other
names have patterns of their own. Facts about names: TRADES (yaodongyu), CIFAR ResNets (kuangliu, akamaster, chenyaofo),
DeepMind's `adversarial_robustness`, RobustBench's architectures, timm's vision transformer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from advjax.models.convnext import ConvNeXt
from advjax.models.resnet import ResNet
from advjax.models.small_cnn import SmallCNN, TinyCNN
from advjax.models.vit import VisionTransformer
from advjax.models.wide_resnet import DeepMindWideResNet, WideResNet

Pattern = tuple[str, str | Callable[[re.Match], str]]

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


class Dialect(NamedTuple):
    """The names of one family.

    Attributes:
        writes: patterns that turn the generic name into the family's.
        reads: patterns that turn other names in use into the family's.
        flattened: (linear layer, convolution) where the one reads the other's flattened output.
    """

    writes: tuple[Pattern, ...] = ()
    reads: tuple[Pattern, ...] = ()
    flattened: tuple[str, str] | None = None


_DIALECTS: dict[type[nn.Module], Dialect] = {
    # torchvision's and chenyaofo's names
    ResNet: Dialect(reads=((r"\.downsample\.", ".shortcut."), (r"^fc\.", "linear."))),
    WideResNet: Dialect(((r"^block(\d)\.(\d+)\.", r"block\1.layer.\2."), (r"\.shortcut\.", ".convShortcut."))),
    DeepMindWideResNet: Dialect(
        (
            (r"^conv1\.", "init_conv."),
            (r"^bn1\.", "batchnorm."),
            (r"^fc\.", "logits."),
            (r"^block(\d)\.(\d+)\.", lambda m: f"layer.{int(m[1]) - 1}.block.{m[2]}."),
            (r"\.bn(\d)\.", lambda m: f".batchnorm_{int(m[1]) - 1}."),
            (r"\.conv(\d)\.", lambda m: f".conv_{int(m[1]) - 1}."),
        )
    ),
    SmallCNN: Dialect(((r"^conv", "feature_extractor.conv"), (r"^fc", "classifier.fc")), (), ("fc1", "conv4")),
    TinyCNN: Dialect(flattened=("fc1", "conv3")),
    ConvNeXt: Dialect(((r"^(stages|downsample_layers)_(\d+)\.", r"\1.\2."),)),
    VisionTransformer: Dialect(
        (
            (r"^(blocks\.\d+)\.(qkv|proj)\.", r"\1.attn.\2."),
            (r"^(blocks\.\d+)\.(fc\d)\.", r"\1.mlp.\2."),
            (r"^patch_embed\.", "patch_embed.proj."),
        )
    ),
}


def dialect(module: nn.Module) -> Dialect:
    """The dialect of a network's family; the generic one for any other linen module."""
    return _DIALECTS.get(type(module), Dialect())


def substitute(name: str, patterns: tuple[Pattern, ...]) -> str:
    """`name` after every pattern in turn."""
    for pattern, replacement in patterns:
        name = re.sub(pattern, replacement, name)
    return name


def torch_name(module: nn.Module, path: tuple[str, ...]) -> str:
    """The PyTorch name of the leaf at a flax path."""
    *parents, leaf = path
    name = ".".join([*(re.sub(r"_(\d+)$", r".\1", part) for part in parents), LEAVES.get(leaf, leaf)])
    return substitute(name, dialect(module).writes)


def torch_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The PyTorch shape of a leaf of this flax shape: OIHW for convolutions, [out, in] for linear layers."""
    if path[-1] != "kernel":
        return tuple(shape)
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else tuple(shape[::-1])


def to_torch(path: tuple[str, ...], value: Any, channels: int | None) -> np.ndarray:
    """A leaf laid out as in PyTorch.

    Args:
        path: of the leaf.
        value: the leaf.
        channels: of the flattened feature map that this linear layer reads, None for any other. PyTorch flattens
            channels first, this library last.
    """
    value = np.asarray(value, np.float32)
    if path[-1] == "kernel":
        if channels:
            value = value.reshape(-1, channels, value.shape[-1]).transpose(1, 0, 2).reshape(value.shape)
        value = value.transpose((3, 2, 0, 1) if value.ndim == 4 else (1, 0))
    return np.ascontiguousarray(value)


def from_torch(path: tuple[str, ...], value: np.ndarray, channels: int | None) -> np.ndarray:
    """The inverse of `to_torch`."""
    if path[-1] == "kernel":
        value = value.transpose((2, 3, 1, 0) if value.ndim == 4 else (1, 0))
        if channels:
            value = value.reshape(channels, -1, value.shape[-1]).transpose(1, 0, 2).reshape(value.shape)
    return np.ascontiguousarray(value, np.float32)


def flattened_channels(module: nn.Module, path: tuple[str, ...], params: Any) -> int | None:
    """The channels of the feature map that the leaf at `path` reads flattened, None if it reads none."""
    flattened = dialect(module).flattened
    if flattened is None or path != (flattened[0], "kernel"):
        return None
    return params[flattened[1]]["kernel"].shape[-1]
