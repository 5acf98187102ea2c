"""The toy network of tests/helpers.py in PyTorch, weights both ways, and PGD: what the parity tests share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional


class TorchToyNet(torch.nn.Module):
    """Convolution, BatchNorm, ReLU, linear, on NCHW images."""

    def __init__(self, features: int, classes: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        height, width, channels = shape
        self.conv = torch.nn.Conv2d(channels, features, 3, padding=1, bias=False)
        self.bn = torch.nn.BatchNorm2d(features)
        self.linear = torch.nn.Linear(height * width * features, classes)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x)))
        return self.linear(x.permute(0, 2, 3, 1).flatten(1))  # flax flattens NHWC


def tensor(array: Any):
    """Any array as a tensor."""
    return torch.from_numpy(np.array(array))


def images(x: Any):
    """NHWC images as an NCHW tensor."""
    return tensor(x).permute(0, 3, 1, 2).contiguous()


def to_torch(net: Any) -> TorchToyNet:
    """A `Network` of a context, a ToyNet, as a PyTorch module in training mode."""
    params, stats = net.params, net.stats["BatchNorm_0"]
    kernel = np.asarray(params["Conv_0"]["kernel"])
    classes = params["Linear_0"]["bias"].shape[0]
    pixels = params["Linear_0"]["kernel"].shape[0] // kernel.shape[-1]
    module = TorchToyNet(kernel.shape[-1], classes, (pixels, 1, kernel.shape[2]))
    with torch.no_grad():
        module.conv.weight.copy_(tensor(kernel.transpose(3, 2, 0, 1)))
        module.bn.weight.copy_(tensor(params["BatchNorm_0"]["scale"]))
        module.bn.bias.copy_(tensor(params["BatchNorm_0"]["bias"]))
        module.bn.running_mean.copy_(tensor(stats["mean"]))
        module.bn.running_var.copy_(tensor(stats["var"]))
        module.linear.weight.copy_(tensor(params["Linear_0"]["kernel"]).T)
        module.linear.bias.copy_(tensor(params["Linear_0"]["bias"]))
    return module.train()


def to_flax(module: TorchToyNet, value=lambda parameter: parameter.grad) -> dict[str, Any]:
    """The gradients (or another `value` of each parameter) in the layout of ToyNet's parameters."""

    def array(parameter):
        return np.zeros(parameter.shape, np.float32) if value(parameter) is None else value(parameter).detach().numpy()

    return {
        "Conv_0": {"kernel": array(module.conv.weight).transpose(2, 3, 1, 0)},
        "BatchNorm_0": {"scale": array(module.bn.weight), "bias": array(module.bn.bias)},
        "Linear_0": {"kernel": array(module.linear.weight).T, "bias": array(module.linear.bias)},
    }


def pgd(objective, x, start, *, eps: float, step_size: float, steps: int):
    """l_inf PGD on a tensor; `objective(x') -> scalar` is maximised."""
    x_adv = start
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(x_adv), x_adv)
        x_adv = torch.clamp(x + torch.clamp(x_adv + step_size * gradient.sign() - x, -eps, eps), 0, 1)
    return x_adv.detach()


def assert_parity(ours: Any, theirs: Any, tolerance: float = 1e-4) -> None:
    """Agreement of two pytrees leaf by leaf, relative to the leaf's largest entry."""
    import jax

    def check(path, a, b):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape, jax.tree_util.keystr(path)
        difference = np.abs(a - b).max() / max(np.abs(b).max(), 1e-8)
        assert difference < tolerance, f"{jax.tree_util.keystr(path)}: relative difference {difference:.2e}"

    jax.tree_util.tree_map_with_path(check, ours, theirs)


def assert_same_statistics(stats: Any, module: TorchToyNet) -> None:
    """BatchNorm's running mean and variance, after the same forwards in the same order."""
    theirs = {"mean": module.bn.running_mean.numpy(), "var": module.bn.running_var.numpy()}
    assert_parity(stats["BatchNorm_0"], theirs)
