"""Every architecture in PyTorch (the definitions that `experiments.export` ships), small enough for tests."""

import numpy as np
import pytest

from advjax import models

torch = pytest.importorskip("torch", reason="needs the extra 'torch'")

from advjax.cli.torch_definitions import convnext, mobilenet_v2, preact_resnet, resnet, small_cnn, vit, wide_resnet  # noqa: E402

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
RGB = (32, 32, 3)
# network, options of both, classes, image shape, PyTorch class, options of PyTorch's alone
CASES = {
    "resnet18": ("resnet18", {"width": 8, "mean": MEAN, "std": STD}, 10, RGB, resnet.ResNet, {}),
    "resnet18_lbgat": ("resnet18_lbgat", {"width": 8}, 10, RGB, resnet.ResNet, {}),
    "resnet50": ("resnet50", {"width": 4, "blocks": (1, 2, 1, 1)}, 10, RGB, resnet.ResNet, {}),
    "resnet50_stem": (
        "resnet50",
        {"width": 4, "blocks": (1, 1, 1, 1), "stem": "imagenet"},
        10,
        (37, 32, 3),
        resnet.ResNet,
        {},
    ),
    "convnext": ("convnext_t", {"width": 8, "blocks": (1, 2, 1)}, 10, RGB, convnext.ConvNeXt, {}),
    "convnext_stem": ("convnext_t", {"width": 8, "blocks": (2, 1), "stem": "conv"}, 7, RGB, convnext.ConvNeXt, {}),
    "resnet20_conv": ("resnet20", {"blocks": (2, 1, 2)}, 100, RGB, resnet.ResNet, {}),
    "resnet20_pad": ("resnet20", {"shortcut": "pad", "blocks": (2, 1, 2)}, 10, (17, 16, 3), resnet.ResNet, {}),
    "preact": ("preact_resnet18", {"width": 8}, 10, RGB, preact_resnet.PreActResNet, {}),
    "preact_raw": (
        "preact_resnet18",
        {"width": 8, "shortcut_from": "raw", "final_norm": False},
        10,
        RGB,
        preact_resnet.PreActResNet,
        {},
    ),
    "wrn": ("wrn_34_10", {"depth": 16, "width": 1}, 10, RGB, wide_resnet.WideResNet, {}),
    "wrn_wide": ("wrn_28_10", {"depth": 10, "width": 2}, 10, RGB, wide_resnet.WideResNet, {}),
    "wrn_swish": ("wrn_28_10_swish", {"depth": 16, "width": 2}, 10, RGB, wide_resnet.DeepMindWideResNet, {}),
    "mobilenet_v2": ("mobilenet_v2", {"width": 0.25}, 10, RGB, mobilenet_v2.MobileNetV2, {}),
    "small_cnn": ("small_cnn", {}, 10, (28, 28, 1), small_cnn.SmallCNN, {"channels": 1}),
    "small_rect": ("small_cnn", {"width": 4}, 7, (28, 24, 1), small_cnn.SmallCNN, {"channels": 1, "size": (28, 24)}),
    "tiny_cnn": ("tiny_cnn", {"width": 8}, 10, (8, 6, 1), small_cnn.TinyCNN, {"channels": 1, "size": (8, 6)}),
    "vit": ("vit", {"width": 24, "depth": 2}, 10, (16, 16, 3), vit.VisionTransformer, {"size": (16, 16)}),
}

SIZES = ("blocks", "bottleneck", "depth", "heads", "mean", "patch", "std", "strides", "width")


def pair(case, seed=0):
    """A network in both worlds, PyTorch's with random weights and statistics: (linen module, nn.Module, shape)."""
    name, options, classes, shape, cls, own = CASES[case]
    module = models.create(name, classes, **options)
    # Details that a family fixes are left to each side's own default, so that a wrong one shows.
    shared = {k: v for k, v in models.options(name).items() if k in SIZES} | options
    torch.manual_seed(seed)
    reference = cls(num_classes=classes, **shared, **own).eval()
    with torch.no_grad():
        for key, value in reference.state_dict().items():
            if key.endswith(("running_mean", "bias", "cls_token", "pos_embed")):
                value.normal_(0, 0.2)
            elif key.endswith("running_var") or value.ndim == 1:
                value.uniform_(0.5, 1.5)
    return module, reference, shape


def images(shape, count=3, seed=0):
    return np.random.default_rng(seed).random((count, *shape), np.float32)


def torch_logits(reference, x):
    with torch.no_grad():
        return reference(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
