"""AutoAugment's CIFAR-10 policy on uint8 batches (Cubuk et al., "AutoAugment: Learning Augmentation
Strategies from Data", CVPR 2019).

The policy has few distinct variants (operation, level, sign). So `draw_policies` draws for all
images at once, and `apply_policies` groups them by variant and runs each variant as one batched
operation. Draws and groups are made on the CPU, so they are the same on every device and nothing
waits for the device.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import AutoAugment as TorchvisionAutoAugment
from torchvision.transforms import AutoAugmentPolicy

from datasets.loading.operations import OPERATIONS, SIGNED, check_images, chunk_length
from datasets.loading.transfer import to_device


def _op_name(torchvision_name: str) -> str:
    if torchvision_name.startswith(("Shear", "Translate")):  # ShearX -> shearX
        return torchvision_name[0].lower() + torchvision_name[1:]
    return torchvision_name.lower()


# 25 sub-policies, each two triples (op, probability, level).
POLICIES = tuple(
    tuple((_op_name(name), probability, level) for name, probability, level in policy)
    for policy in TorchvisionAutoAugment(AutoAugmentPolicy.CIFAR10).policies
)
PROBABILITIES = torch.tensor([[p for _, p, _ in policy] for policy in POLICIES])  # [25, 2]


def _variant(op: str, level: int | None, sign: int) -> tuple[str, int | None, int]:
    return op, level, sign if op in SIGNED else 1


# The distinct (op, level, sign), and their index for [sub-policy, first or second, sign > 0].
VARIANTS = tuple(
    dict.fromkeys(
        _variant(op, level, sign)
        for policy in POLICIES
        for op, _, level in policy
        for sign in (-1, 1)
    )
)
VARIANT_INDEX = torch.tensor(
    [
        [[VARIANTS.index(_variant(op, level, s)) for s in (-1, 1)] for op, _, level in policy]
        for policy in POLICIES
    ]
)


class PolicyDraws(NamedTuple):
    """What AutoAugment draws for N images, on the CPU."""

    policies: Tensor  # int64 [N], index into POLICIES
    applied: Tensor  # bool [N, 2], True if the first and if the second operation runs
    signs: Tensor  # int64 [N, 2], -1 or 1; ignored by operations without a direction


def draw_policies(n: int, generator: torch.Generator) -> PolicyDraws:
    """Returns for n images a sub-policy each, which of its two operations run, and their signs.

    A sub-policy is one of the 25, uniformly. Each of its operations runs with its own probability.
    Signs are -1 or 1 with equal probability. All draws are independent; `generator` is on the CPU.
    """
    policies = torch.randint(len(POLICIES), (n,), generator=generator)
    applied = torch.rand(n, 2, generator=generator) < PROBABILITIES[policies]
    signs = 2 * torch.randint(2, (n, 2), generator=generator) - 1
    return PolicyDraws(policies, applied, signs)


def apply_policies(images: Tensor, draws: PolicyDraws) -> Tensor:
    """Returns the images after AutoAugment's CIFAR-10 policy; each image has its own draws.

    Args:
        images: uint8 [N, 3, H, W], any device.
        draws: what `draw_policies` drew for N images.

    Returns:
        A new uint8 tensor [N, 3, H, W] on the images' device.

    Raises:
        ValueError: the images are not uint8 [N, 3, H, W].

    Source: Cubuk et al. (CVPR 2019), the policy found on CIFAR-10, from torchvision's table.
    """
    check_images(images)
    images = images.clone(memory_format=torch.contiguous_format)
    for k in range(2):
        chosen = draws.applied[:, k].nonzero().squeeze(1)
        positive = (draws.signs[chosen, k] > 0).long()
        variants = VARIANT_INDEX[draws.policies[chosen], k, positive]
        counts = variants.bincount(minlength=len(VARIANTS)).tolist()
        order = to_device(chosen[variants.argsort(stable=True)], images.device)
        for variant, group in zip(VARIANTS, order.split(counts), strict=True):
            if not len(group):  # no image drew it
                continue
            for part in group.split(chunk_length(images)):
                images[part] = OPERATIONS[variant[0]](images[part], *variant)
    return images
