from advjax.cli.torch_definitions.base import F, Network, conv, nn


class PreActBlock(nn.Module):
    def __init__(self, inputs, width, stride, raw_shortcut):
        super().__init__()
        self.raw_shortcut = raw_shortcut
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width)
        if stride != 1 or inputs != width:
            self.shortcut = nn.Sequential(conv(inputs, width, 1, stride))

    def forward(self, x):
        y = F.relu(self.bn1(x))
        if hasattr(self, "shortcut"):
            x = self.shortcut(x if self.raw_shortcut else y)
        return self.conv2(F.relu(self.bn2(self.conv1(y)))) + x


class PreActResNet(Network):
    def __init__(
        self,
        num_classes=10,
        blocks=(2, 2, 2, 2),
        width=64,
        shortcut_from="activated",
        final_norm=True,
        channels=3,
        **normalisation,
    ):
        super().__init__(**normalisation)
        self.conv1 = conv(channels, width)
        self.stages, inputs = len(blocks), width
        for stage, count in enumerate(blocks):
            layers = []
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                layers.append(PreActBlock(inputs, width * 2**stage, stride, shortcut_from == "raw"))
                inputs = width * 2**stage
            setattr(self, f"layer{stage + 1}", nn.Sequential(*layers))
        if final_norm:
            self.bn = nn.BatchNorm2d(inputs)
        self.linear = nn.Linear(inputs, num_classes)

    def forward(self, x):
        x = self.conv1(self.prepare(x))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        if hasattr(self, "bn"):
            x = F.relu(self.bn(x))
        return self.linear(x.mean((2, 3)))
