"""The network of the UniMatch family in plain torch, with its names of layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, rate: int = 1) -> nn.Conv2d:
    padding = rate * (kernel - 1) // 2
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation=rate, bias=False)


def conv_norm_relu(inputs: int, outputs: int, kernel: int = 1, rate: int = 1) -> list[nn.Module]:
    return [conv(inputs, outputs, kernel, 1, rate), nn.BatchNorm2d(outputs), nn.ReLU(True)]


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int, rate: int, project: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride, rate), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 4 * width), nn.BatchNorm2d(4 * width)
        self.downsample = None
        if project:
            self.downsample = nn.Sequential(
                conv(inputs, 4 * width, 1, stride), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, depth: int, output_stride: int, fc: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            conv(3, 64, 3, 2),
            nn.BatchNorm2d(64),
            nn.ReLU(True),
            conv(64, 64, 3),
            nn.BatchNorm2d(64),
            nn.ReLU(True),
            conv(64, 128, 3),
        )
        self.bn1 = nn.BatchNorm2d(128)
        self.inputs, self.rate = 128, 1
        dilated = {8: (False, False, True, True), 16: (False, False, False, True)}[output_stride]
        blocks = (3, 4, {50: 6, 101: 23}[depth], 3)
        for i in range(4):
            self.add_module(f'layer{i + 1}', self._stage(i, blocks[i], dilated[i]))
        if fc:
            self.fc = nn.Linear(2048, 1000)

    def _stage(self, number: int, blocks: int, dilate: bool) -> nn.Sequential:
        width, stride, before = 64 * 2**number, 1 if number == 0 else 2, self.rate
        if dilate:
            self.rate, stride = self.rate * stride, 1
        layers = [Bottleneck(self.inputs, width, stride, before, True)]
        self.inputs = 4 * width
        layers += [Bottleneck(self.inputs, width, 1, self.rate, False) for _ in range(blocks - 1)]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        low = self.layer1(x)
        return low, self.layer4(self.layer3(self.layer2(low)))


class Pool(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.gap = nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_norm_relu(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.gap(x), x.shape[-2:], mode='bilinear', align_corners=True)


class ASPP(nn.Module):
    def __init__(self, inputs: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        width = inputs // 8
        self.b0 = nn.Sequential(*conv_norm_relu(inputs, width))
        for i, rate in enumerate(rates, start=1):
            self.add_module(f'b{i}', nn.Sequential(*conv_norm_relu(inputs, width, 3, rate)))
        self.b4 = Pool(inputs, width)
        self.project = nn.Sequential(*conv_norm_relu(5 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.project(
            torch.cat([b(x) for b in (self.b0, self.b1, self.b2, self.b3, self.b4)], 1)
        )


class UniMatchNetwork(nn.Module):
    """DeepLabV3+; output strides 8 and 16 with their usual dilations."""

    def __init__(self, depth: int, output_stride: int, classes: int) -> None:
        super().__init__()
        self.backbone = ResNet(depth, output_stride)
        self.head = ASPP(2048, {16: (6, 12, 18), 8: (12, 24, 36)}[output_stride])
        self.reduce = nn.Sequential(*conv_norm_relu(256, 48))
        self.fuse = nn.Sequential(*conv_norm_relu(304, 256, 3), *conv_norm_relu(256, 256, 3))
        self.classifier = nn.Conv2d(256, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        low, high = self.backbone(images)
        high = self.head(high)
        low = self.reduce(low)
        high = F.interpolate(high, low.shape[-2:], mode='bilinear', align_corners=True)
        logits = self.classifier(self.fuse(torch.cat([low, high], 1)))
        return F.interpolate(logits, images.shape[-2:], mode='bilinear', align_corners=True)


@torch.no_grad()
def shake(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every norm statistics and factors of its own; eval mode."""
    source = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low in ((module.running_mean, -0.2), (module.bias, -0.2)):
                value.uniform_(low, 0.2, generator=source)
            for value in (module.running_var, module.weight):
                value.uniform_(0.5, 1.0, generator=source)
    return network.eval()
