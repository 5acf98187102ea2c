from advjax.cli.torch_definitions.base import F, Network, conv, nn

ACTIVATIONS = {"relu": F.relu, "swish": F.silu}


class Padded(nn.Conv2d):
    """A 3x3 convolution of stride 2 with (low, high) padding of rows and columns."""

    def __init__(self, inputs, outputs, padding):
        super().__init__(inputs, outputs, 3, 2, 0, bias=False)
        self.pad = (*padding, *padding)

    def forward(self, x):
        return super().forward(F.pad(x, self.pad))


class BasicBlock(nn.Module):
    """Shortcut and residual both start from the activated input where the number of channels changes."""

    def __init__(self, inputs, width, stride, padding, activation):
        super().__init__()
        self.activation = activation
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = Padded(inputs, width, padding) if stride == 2 else conv(inputs, width)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width)
        self.convShortcut = conv(inputs, width, 1, stride) if inputs != width else None

    def forward(self, x):
        y = self.activation(self.bn1(x))
        if self.convShortcut is not None:
            x = self.convShortcut(y)
        return self.conv2(self.activation(self.bn2(self.conv1(y)))) + x


class Stage(nn.Module):
    """Blocks in a sequence that is called `name`."""

    def __init__(self, name, block, count, inputs, width, stride, *options):
        super().__init__()
        sizes = [(inputs, stride)] + [(width, 1)] * (count - 1)
        self.name = name
        setattr(self, name, nn.Sequential(*(block(i, width, s, *options) for i, s in sizes)))

    def forward(self, x):
        return getattr(self, self.name)(x)


class WideResNet(Network):
    """With TRADES' names of tensors."""

    def __init__(
        self,
        num_classes=10,
        depth=34,
        width=10,
        activation="relu",
        stride_padding=(1, 1),
        channels=3,
        sub_block1=False,
        **normalisation,
    ):
        super().__init__(**normalisation)
        count, self.activation = (depth - 4) // 6, ACTIVATIONS[activation]
        options = (stride_padding, self.activation)

        def stage(inputs, outputs, stride):
            return Stage("layer", BasicBlock, count, inputs, outputs, stride, *options)

        self.conv1 = conv(channels, 16)
        self.block1 = stage(16, 16 * width, 1)
        if sub_block1:  # never used, but TRADES' files have it
            self.sub_block1 = stage(16, 16 * width, 1)
        self.block2 = stage(16 * width, 32 * width, 2)
        self.block3 = stage(32 * width, 64 * width, 2)
        self.bn1, self.fc = nn.BatchNorm2d(64 * width), nn.Linear(64 * width, num_classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(self.prepare(x)))))
        return self.fc(self.activation(self.bn1(x)).mean((2, 3)))


class DeepMindBlock(nn.Module):
    def __init__(self, inputs, width, stride, padding, activation):
        super().__init__()
        self.activation = activation
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.conv_0 = Padded(inputs, width, padding) if stride == 2 else conv(inputs, width)
        self.batchnorm_1, self.conv_1 = nn.BatchNorm2d(width), conv(width, width)
        self.shortcut = conv(inputs, width, 1, stride) if inputs != width else None

    def forward(self, x):
        y = self.activation(self.batchnorm_0(x))
        if self.shortcut is not None:
            x = self.shortcut(y)
        return self.conv_1(self.activation(self.batchnorm_1(self.conv_0(y)))) + x


class DeepMindWideResNet(Network):
    """With DeepMind's names of tensors."""

    def __init__(
        self,
        num_classes=10,
        depth=28,
        width=10,
        activation="swish",
        stride_padding=(0, 1),
        channels=3,
        **normalisation,
    ):
        super().__init__(**normalisation)
        count, self.activation = (depth - 4) // 6, ACTIVATIONS[activation]
        sizes = [(16, 16 * width, 1), (16 * width, 32 * width, 2), (32 * width, 64 * width, 2)]
        self.init_conv = conv(channels, 16)
        options = (stride_padding, self.activation)
        self.layer = nn.Sequential(*(Stage("block", DeepMindBlock, count, *s, *options) for s in sizes))
        self.batchnorm, self.logits = nn.BatchNorm2d(64 * width), nn.Linear(64 * width, num_classes)

    def forward(self, x):
        x = self.layer(self.init_conv(self.prepare(x)))
        return self.logits(self.activation(self.batchnorm(x)).mean((2, 3)))
