from advjax.cli.torch_definitions.base import F, Network, conv, nn

STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class InvertedResidual(nn.Module):
    def __init__(self, expansion, inputs, width, stride):
        super().__init__()
        self.stride, wide = stride, expansion * inputs
        self.conv1, self.bn1 = conv(inputs, wide, 1), nn.BatchNorm2d(wide)
        self.conv2, self.bn2 = conv(wide, wide, 3, stride, groups=wide), nn.BatchNorm2d(wide)
        self.conv3, self.bn3 = conv(wide, width, 1), nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if stride == 1 and inputs != width:
            self.shortcut = nn.Sequential(conv(inputs, width, 1), nn.BatchNorm2d(width))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return y + self.shortcut(x) if self.stride == 1 else y


class MobileNetV2(Network):
    def __init__(self, num_classes=10, width=1.0, channels=3, **normalisation):
        super().__init__(**normalisation)

        def scaled(count):
            return max(1, round(count * width))

        inputs, layers = scaled(32), []
        self.conv1, self.bn1 = conv(channels, inputs), nn.BatchNorm2d(inputs)
        for expansion, outputs, count, stride in STAGES:
            for i in range(count):
                layers.append(InvertedResidual(expansion, inputs, scaled(outputs), stride if i == 0 else 1))
                inputs = scaled(outputs)
        self.layers = nn.Sequential(*layers)
        self.conv2, self.bn2 = conv(inputs, scaled(1280), 1), nn.BatchNorm2d(scaled(1280))
        self.linear = nn.Linear(scaled(1280), num_classes)

    def forward(self, x):
        x = self.layers(F.relu(self.bn1(self.conv1(self.prepare(x)))))
        return self.linear(F.relu(self.bn2(self.conv2(x))).mean((2, 3)))
