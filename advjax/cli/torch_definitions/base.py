"""What every definition starts with; PyTorch is all it needs."""

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["F", "Network", "conv", "nn", "torch"]


class Network(nn.Module):
    """Images [B, C, H, W] in [0, 1]; `mean` and `std`, if given, normalise them inside the network."""

    def __init__(self, mean=None, std=None):
        super().__init__()
        for name, value in (("mean", mean), ("std", std)):
            buffer = None if value is None else torch.tensor(value).view(1, -1, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    def prepare(self, x):
        if self.mean is not None:
            x = x - self.mean
        return x if self.std is None else x / self.std


def conv(inputs, outputs, kernel=3, stride=1, **options):
    return nn.Conv2d(inputs, outputs, kernel, stride, (kernel - 1) // 2, bias=False, **options)
