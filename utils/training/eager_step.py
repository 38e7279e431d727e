"""The training step on a whole batch, operation by operation."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from losses import Objective
from models import Network, NormedLinear
from utils.machine.device import Machine
from utils.training.phase import Phase


class EagerStep:
    """One step of stochastic gradient descent: forward, objective, backward, update.

    It never waits for the device.
    """

    def __init__(
        self, model: nn.Module, phase: Phase, objective: Objective, machine: Machine
    ) -> None:
        self.model = model
        self.phase = phase
        self.objective = objective
        self.machine = machine

    def __call__(self, inputs: Tensor, targets: Tensor, centroids: Tensor | None) -> Tensor:
        """Returns the objective, each of its losses, and the share of images predicted right, as
        one tensor ``[2 + number of losses]``.

        Args:
            inputs: images, uint8 from the loader's `pixels` or normalised; or features ``[B, D]``
                if these are frozen.
            targets: ``[B]``.
            centroids: ``[K, D]`` for the robust loss, or None.
        """
        if self.phase.features_are_frozen:
            features, logits = inputs, cast(Network, self.model).classify(inputs)
        else:
            inputs = self.prepared(inputs)
            features, logits = self.forward(self.model, inputs)
        extras = self.extras([inputs], targets)
        count = len(targets)
        if len(logits) > count:  # the first view is classified, the others are contrasted
            extras["views"] = features[count:], classifier_weights(self.model)
            features, logits = features[:count], logits[:count]
        loss, losses = self.objective(features, logits, targets, centroids, **extras)
        self.phase.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.update()
        return self.statistics(loss, losses, logits, targets)

    def prepared(self, images: Tensor) -> Tensor:
        """Returns the batch normalised and mixed with mixup, normalised with a teacher, and
        unchanged otherwise, because `forward` normalises it."""
        phase = self.phase
        is_shared = phase.mixup is not None or phase.teacher is not None
        if is_shared and images.dtype == torch.uint8:
            images = phase.loader.normalise(images)
        return images if phase.mixup is None else phase.mixup.images(images)

    def extras(self, parts: Sequence[Tensor], targets: Tensor) -> dict:
        """Returns further arguments of the objective: the second targets of mixed images, and the
        teacher's logits of the batch, which is given in parts."""
        extras = {}
        if self.phase.mixup is not None:
            extras["mixed"] = self.phase.mixup.targets(targets)
        if self.phase.teacher is not None:
            with torch.no_grad():
                logits = [self.forward(self.phase.teacher, part)[1] for part in parts]
            extras["teacher_logits"] = torch.cat(logits)
        return extras

    def forward(self, network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns features and logits. uint8 images are normalised here, inside the step, so that a
        captured step includes it."""
        if images.dtype == torch.uint8:
            images = self.phase.loader.normalise(images)
        with self.machine.autocast():
            return network(images)

    def update(self) -> None:
        """Updates the parameters from their gradients."""
        self.phase.optimizer.step()
        if self.phase.after_update is not None:
            self.phase.after_update()

    @staticmethod
    def statistics(loss: Tensor, losses: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """Returns what a step returns, from the objective, its losses and the logits."""
        correct = (logits.detach().argmax(dim=1) == targets).float().mean()
        return torch.cat([loss.detach().view(1), losses, correct.view(1)])

    def state(self) -> list[Tensor]:
        """Returns all tensors that a step changes."""
        optimizer = self.phase.optimizer
        momenta = [t for s in optimizer.state.values() for t in s.values() if isinstance(t, Tensor)]
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        of_losses = self.objective.buffers()
        return [*self.model.state_dict().values(), *of_losses, *trained, *momenta]


def classifier_weights(model: nn.Module) -> Tensor:
    """Returns the weights of the classifier as rows ``[K, D]``, with gradient."""
    head = cast(Network, model).linear
    return head.weight.T if isinstance(head, NormedLinear) else head.weight
