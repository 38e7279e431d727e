"""ResNets for large images, torchvision's (He et al., CVPR 2016; ResNeXt: Xie et al., "Aggregated
Residual Transformations for Deep Neural Networks", CVPR 2017), with features beside the logits."""

from functools import partial

import torch
from torch import Tensor
from torchvision.models import resnet

from models.heads import make_head
from models.network import Network


class ResNetImageNet(Network, resnet.ResNet):
    """torchvision's ResNet, whose last layer is called `linear`; the other weights keep
    torchvision's names.

    Args:
        block: torchvision's `BasicBlock` or `Bottleneck`.
        blocks: number of blocks of the four groups.
        num_classes: number of logits K.
        head_scale: None for a linear head, else the scale of a cosine head (`NormedLinear`).
        groups, width_per_group: of the 3×3 convolutions of a ResNeXt.

    `model(images)` takes float images ``[B, 3, H, W]`` and returns ``(features, logits)`` of shapes
    ``[B, D]`` and ``[B, K]``. Both are float32; under autocast only the convolutional part runs in
    lower precision. D is 512 with basic blocks, 2048 with bottlenecks.
    """

    def __init__(
        self,
        block: type[resnet.BasicBlock | resnet.Bottleneck],
        blocks: list[int],
        num_classes: int = 1000,
        head_scale: float | None = None,
        groups: int = 1,
        width_per_group: int = 64,
    ) -> None:
        super().__init__(block, blocks, 1, groups=groups, width_per_group=width_per_group)
        self.num_features = self.fc.in_features
        del self.fc
        self.linear = make_head(self.num_features, num_classes, head_scale)

    def features(self, images: Tensor) -> Tensor:
        """Returns features ``[B, D]`` (float32) of normalised images ``[B, 3, H, W]``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3), dtype=torch.float32)


# Called as resnet50(num_classes=1000, head_scale=None). ResNet-10, with one block in each group, is
# the small network of ImageNet-LT's papers.
resnet10 = partial(ResNetImageNet, resnet.BasicBlock, [1, 1, 1, 1])
resnet18 = partial(ResNetImageNet, resnet.BasicBlock, [2, 2, 2, 2])
resnet34 = partial(ResNetImageNet, resnet.BasicBlock, [3, 4, 6, 3])
resnet50 = partial(ResNetImageNet, resnet.Bottleneck, [3, 4, 6, 3])
resnext50 = partial(resnet50, groups=32, width_per_group=4)  # 32×4d
