from advjax.cli.torch_definitions.base import F, Network, nn, torch


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, H, W]."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(1e-6 * torch.ones(width))

    def forward(self, x):
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


def stem_of(channels, width, stem):
    if stem == "patch":
        return nn.Sequential(nn.Conv2d(channels, width, 4, 4), ChannelNorm(width, eps=1e-6))
    layers = []
    for inputs, outputs in ((channels, width // 2), (width // 2, width)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), ChannelNorm(outputs, eps=1e-6), nn.GELU()]
    return nn.Sequential(*layers)


class ConvNeXt(Network):
    def __init__(self, num_classes=10, blocks=(3, 3, 9, 3), width=96, stem="patch", channels=3, **normalisation):
        super().__init__(**normalisation)
        widths = [width * 2**stage for stage in range(len(blocks))]
        self.downsample_layers = nn.ModuleList([stem_of(channels, width, stem)])
        for size in widths[:-1]:
            down = nn.Sequential(ChannelNorm(size, eps=1e-6), nn.Conv2d(size, 2 * size, 2, 2))
            self.downsample_layers.append(down)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(size) for _ in range(count))) for size, count in zip(widths, blocks, strict=True)
        )
        self.norm, self.head = nn.LayerNorm(widths[-1], eps=1e-6), nn.Linear(widths[-1], num_classes)

    def forward(self, x):
        x = self.prepare(x)
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        return self.head(self.norm(x.mean((2, 3))))
