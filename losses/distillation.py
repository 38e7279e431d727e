"""Distillation: a trained network's predictions as a second target."""

import torch.nn.functional as F
from torch import Tensor, nn


class DistillationLoss(nn.Module):
    """Distillation loss: the mean over the batch of T² · KL(q ‖ p), from the teacher's
    distribution q ∝ softmax((t + b_t) / T)^β to the student's p = softmax((x + b_s) / T).

    The factor T² keeps the size of the gradient (Hinton et al., "Distilling the Knowledge in a
    Neural Network", 2015, section 2). A power β < 1 makes the teacher's long-tailed distribution
    over classes flatter (DiVE: He et al., "Distilling Virtual Examples for Long-tailed
    Recognition", ICCV 2021, section 3.4). The offsets b turn the logits of each network into those
    of the class frequencies of training: τ · log π_c for balanced softmax, log π_c for a network
    that learned from equal shares of the classes, 0 for cross-entropy. So before the power, both
    distributions have these frequencies; the power takes the teacher's nearer to equal ones.

    Args:
        temperature: T > 0.
        power: β > 0.
        offsets: b_s ``[K]``, or None for 0.
        teacher_offsets: b_t ``[K]``, or None for 0.

    Shapes: the student's logits x ``[B, K]``, the teacher's logits t ``[B, K]``, which are
    constants for the gradient; returns a scalar.

    Raises:
        ValueError: the temperature or the power is not positive.
    """

    offsets: Tensor | None
    teacher_offsets: Tensor | None

    def __init__(
        self,
        temperature: float = 2.0,
        power: float = 0.5,
        offsets: Tensor | None = None,
        teacher_offsets: Tensor | None = None,
    ) -> None:
        super().__init__()
        if not (temperature > 0 and power > 0):
            raise ValueError(
                f"temperature and power must be positive, not {temperature} and {power}"
            )
        self.temperature = temperature
        self.power = power
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("teacher_offsets", teacher_offsets, persistent=False)

    def forward(self, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        if self.offsets is not None:
            logits = logits + self.offsets
        teacher_logits = teacher_logits.detach()
        if self.teacher_offsets is not None:
            teacher_logits = teacher_logits + self.teacher_offsets
        student = F.log_softmax(logits / self.temperature, dim=1)
        # softmax(t)^β, normalised again, is softmax(β t).
        teacher = F.log_softmax(teacher_logits * (self.power / self.temperature), dim=1)
        divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
        return self.temperature**2 * divergence
