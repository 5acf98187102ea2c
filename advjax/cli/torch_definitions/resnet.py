from advjax.cli.torch_definitions.base import F, Network, conv, nn


class Pad(nn.Module):
    """Option A: every second pixel, the missing channels zero on either side."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        missing = outputs - inputs
        self.stride, self.pad = stride, (0, 0, 0, 0, missing // 2, missing - missing // 2)

    def forward(self, x):
        return F.pad(x[:, :, :: self.stride, :: self.stride], self.pad)


def shortcut_of(inputs, outputs, stride, shortcut):
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    if shortcut == "pad":
        return Pad(inputs, outputs, stride)
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs, width, stride, shortcut):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width), nn.BatchNorm2d(width)
        self.shortcut = shortcut_of(inputs, width, stride, shortcut)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs, width, stride, shortcut):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.shortcut = shortcut_of(inputs, 4 * width, stride, shortcut)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class ResNet(Network):
    def __init__(
        self,
        num_classes=10,
        blocks=(2, 2, 2, 2),
        bottleneck=False,
        width=64,
        strides=(1, 2, 2, 2),
        shortcut="conv",
        stem="cifar",
        channels=3,
        **normalisation,
    ):
        super().__init__(**normalisation)
        block = Bottleneck if bottleneck else BasicBlock
        kernel, stride = {"cifar": (3, 1), "imagenet": (7, 2)}[stem]
        self.conv1, self.bn1 = conv(channels, width, kernel, stride), nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        self.stages, inputs = len(blocks), width
        for stage, (count, stride) in enumerate(zip(blocks, strides, strict=True)):
            layers = []
            for i in range(count):
                layers.append(block(inputs, width * 2**stage, stride if i == 0 else 1, shortcut))
                inputs = width * 2**stage * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(inputs, num_classes)

    def forward(self, x):
        x = self.pool(F.relu(self.bn1(self.conv1(self.prepare(x)))))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.linear(x.mean((2, 3)))
