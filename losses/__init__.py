"""Losses of both stages, and the objectives that training minimises."""

from losses.classification import (
    BalancedSoftmaxLoss,
    FocalLoss,
    LDAMLoss,
    balanced_weights,
    effective_number_weights,
    long_tail_weights,
    prior_offsets,
)
from losses.contrastive import BalancedContrastiveLoss, ContrastiveBranch
from losses.distillation import DistillationLoss
from losses.dro import DROLoss, class_means
from losses.margins import Margins
from losses.objective import Objective, stage_1_objective, stage_2_objective

__all__ = [
    "BalancedContrastiveLoss",
    "BalancedSoftmaxLoss",
    "ContrastiveBranch",
    "DROLoss",
    "DistillationLoss",
    "FocalLoss",
    "LDAMLoss",
    "Margins",
    "Objective",
    "balanced_weights",
    "class_means",
    "effective_number_weights",
    "long_tail_weights",
    "prior_offsets",
    "stage_1_objective",
    "stage_2_objective",
]
