"""SmallCNN, exported by advjax 0.1.0. Needs PyTorch alone."""

import pathlib

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn


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


class TinyCNN(Network):
    def __init__(self, num_classes=10, width=32, channels=1, size=(8, 8), **normalisation):
        super().__init__(**normalisation)
        self.conv1, self.bn1 = conv(channels, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, 2 * width, 3, 2), nn.BatchNorm2d(2 * width)
        self.conv3, self.bn3 = conv(2 * width, 2 * width), nn.BatchNorm2d(2 * width)
        pixels = ((size[0] + 1) // 2) * ((size[1] + 1) // 2)
        self.fc1, self.fc2 = nn.Linear(2 * width * pixels, 4 * width), nn.Linear(4 * width, num_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(self.prepare(x))))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.relu(self.bn3(self.conv3(x)))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class SmallCNN(Network):
    """TRADES' network for MNIST."""

    def __init__(self, num_classes=10, width=32, dropout=0.5, channels=1, size=(28, 28), **normalisation):
        super().__init__(**normalisation)
        sizes = [(channels, width), (width, width), (width, 2 * width), (2 * width, 2 * width)]
        convolutions = {f"conv{i}": nn.Conv2d(a, b, 3) for i, (a, b) in enumerate(sizes, start=1)}
        self.feature_extractor = nn.ModuleDict(convolutions)
        pixels = (((size[0] - 4) // 2 - 4) // 2) * (((size[1] - 4) // 2 - 4) // 2)
        layers = {"fc1": nn.Linear(2 * width * pixels, 200), "fc2": nn.Linear(200, 200)}
        self.classifier = nn.ModuleDict({**layers, "fc3": nn.Linear(200, num_classes)})
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        x = self.prepare(x)
        for i in range(1, 5):
            x = F.relu(self.feature_extractor[f"conv{i}"](x))
            if i % 2 == 0:
                x = F.max_pool2d(x, 2)
        x = self.dropout(F.relu(self.classifier["fc1"](x.flatten(1))))
        return self.classifier["fc3"](F.relu(self.classifier["fc2"](x)))


def build():
    return SmallCNN(
        num_classes=10,
        mean=None,
        std=None,
        width=32,
        dropout=0.5,
        channels=1,
        size=(28, 28),
    )


def load(path=pathlib.Path(__file__).with_name('weights.safetensors')):
    model = build()
    model.load_state_dict(safetensors.torch.load_file(path), strict=True)
    return model.eval()
