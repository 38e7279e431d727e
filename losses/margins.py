"""The three margins ε of the paper (Samuel and Chechik, ICCV 2021, section 4.3), and who holds
them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

MARGIN_TYPES = ("learned", "shared", "sample_count")


def make_margins(
    margin_type: str,
    margin: float,
    class_counts: Sequence[int],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Returns margins ε_c of shape ``[K]``, in units of feature distance.

    - ``learned``: one trained scalar per class, ε_c = margin at the start (an `nn.Parameter`);
    - ``shared``: ε_c = margin, fixed;
    - ``sample_count``: ε_c = margin / √n_c, fixed: the ball shrinks with the error of the mean.

    Args:
        margin_type: one of `MARGIN_TYPES`.
        margin: the scale of the margins.
        class_counts: training images per class n_c, all at least 1.
        device: where the margins live.

    Raises:
        ValueError: an unknown type.
    """
    counts = torch.tensor(class_counts, dtype=torch.float32, device=device)
    constant = torch.full_like(counts, margin)
    if margin_type == "learned":
        return nn.Parameter(constant)
    if margin_type == "shared":
        return constant
    if margin_type == "sample_count":
        return margin / counts.sqrt()
    raise ValueError(f"margin type must be one of {', '.join(MARGIN_TYPES)}, not {margin_type!r}")


class Margins(nn.Module):
    """The margins ε of all robust losses of a stage: one vector ``[K]``, or one for each of the
    layers that the robust loss works on.

    Every `DROLoss` gets its vector from here and holds it itself, so that there is one copy of it:
    what an optimiser does to `parameters()` is what the loss sees.

    Args:
        margin_type, margin, class_counts: as in `make_margins`.
        num_layers: L, or None for one vector for the features.

    Raises:
        ValueError: an unknown type.

    Example:
        >>> margins = Margins("learned", 1.0, [5, 3], num_layers=2)
        >>> margins.load(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
        >>> margins.keep_above(0.0)
        >>> margins.values()
        tensor([[1., 0.],
                [3., 4.]])
    """

    def __init__(
        self,
        margin_type: str,
        margin: float,
        class_counts: Sequence[int],
        num_layers: int | None = None,
    ) -> None:
        super().__init__()
        self.is_layered = num_layers is not None
        rows = [make_margins(margin_type, margin, class_counts) for _ in range(num_layers or 1)]
        self.epsilons = nn.ParameterList(nn.Parameter(row, row.requires_grad) for row in rows)

    @property
    def of_losses(self) -> Tensor | list[Tensor]:
        """The vector, or the list of the layers' vectors, as `stage_2_objective` takes them."""
        return list(self.epsilons) if self.is_layered else self.epsilons[0]

    @property
    def trained(self) -> list[nn.Parameter]:
        """The vectors that train; none where the margins are fixed."""
        return [vector for vector in self.epsilons if vector.requires_grad]

    def values(self) -> Tensor:
        """Returns the margins as they are now, ``[K]`` or ``[L, K]``, without gradient."""
        rows = [vector.detach() for vector in self.epsilons]
        return torch.stack(rows) if self.is_layered else rows[0]

    @torch.no_grad()
    def load(self, values: Tensor) -> None:
        """Gives the margins these values ``[K]`` or ``[L, K]``, in place.

        Raises:
            ValueError: values of another shape.
        """
        if values.shape != self.values().shape:
            shapes = list(values.shape), list(self.values().shape)
            raise ValueError(f"margins of shape {shapes[0]}, not {shapes[1]}")
        for vector, row in zip(self.epsilons, values.view(len(self.epsilons), -1), strict=True):
            vector.copy_(row)

    @torch.no_grad()
    def keep_above(self, lowest: float) -> None:
        """Sets margins below `lowest` back to it: the projection of a projected gradient step."""
        for vector in self.epsilons:
            vector.clamp_(min=lowest)
