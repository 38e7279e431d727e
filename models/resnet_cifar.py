"""ResNets for 32×32 images (He et al., "Deep Residual Learning for Image Recognition",
CVPR 2016, section 4.2), with the parameter-free "option A" shortcuts of that section."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.heads import make_head
from models.network import Network


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: y = relu(x' + F(x)).

    If the block halves the resolution, the shortcut x' is every second pixel of x, with zero
    channels added on both sides (option A). So the shortcut has no parameters.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.added_channels = (out_channels - in_channels) // 2

    def shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1 and self.added_channels == 0:
            return x
        pixels = x[:, :, :: self.stride, :: self.stride]
        return F.pad(pixels, (0, 0, 0, 0, self.added_channels, self.added_channels))

    def forward(self, x: Tensor) -> Tensor:
        residual = F.relu(self.bn1(self.conv1(x)), inplace=True)
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual.add_(self.shortcut(x)), inplace=True)


class ResNetCifar(Network):
    """ResNet-(6n+2): a 3×3 stem of 16 channels, three groups of n basic blocks with 16, 32 and
    64 channels, global average pooling, one linear layer.

    Args:
        blocks_per_group: n; 5 gives ResNet-32.
        num_classes: number of logits K.
        head_scale: None for a linear head, else the scale of a cosine head (`NormedLinear`).

    `model(images)` takes float images ``[B, 3, H, W]`` and returns ``(features, logits)`` of shapes
    ``[B, 64]`` and ``[B, K]``. Both are float32; under autocast only the convolutional part runs in
    lower precision.
    """

    num_features = 64

    def __init__(
        self, blocks_per_group: int, num_classes: int = 10, head_scale: float | None = None
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._group(16, 16, blocks_per_group, stride=1)
        self.layer2 = self._group(16, 32, blocks_per_group, stride=2)
        self.layer3 = self._group(32, 64, blocks_per_group, stride=2)
        self.linear = make_head(self.num_features, num_classes, head_scale)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _group(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_channels, out_channels, stride)
        rest = [BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)]
        return nn.Sequential(first, *rest)

    def features(self, images: Tensor) -> Tensor:
        """Returns features ``[B, 64]`` (float32) of normalised images ``[B, 3, H, W]``."""
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        return x.mean(dim=(2, 3), dtype=torch.float32)


# ResNet-(6n+2), called as resnet32(num_classes=10, head_scale=None).
resnet8 = partial(ResNetCifar, 1)  # the smallest of the family: for trying things out
resnet20 = partial(ResNetCifar, 3)
resnet32 = partial(ResNetCifar, 5)  # the paper's backbone: 464,154 parameters at 10 classes
resnet44 = partial(ResNetCifar, 7)
resnet56 = partial(ResNetCifar, 9)
resnet110 = partial(ResNetCifar, 18)
resnet1202 = partial(ResNetCifar, 200)
