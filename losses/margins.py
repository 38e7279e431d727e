"""The margins ε of the robust loss (Samuel and Chechik, ICCV 2021, section 4.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

MARGIN_TYPES = ("learned", "shared", "sample_count")


class Margins(nn.Module):
    """The margins ε of all robust losses of a stage, in units of feature distance: one vector
    ``[K]``, or one vector for each of the L layers that the robust loss works on. At the start they
    are of one of the paper's three kinds:

    - ``learned``: one trained scalar per class, ε_c = margin;
    - ``shared``: ε_c = margin, fixed;
    - ``sample_count``: ε_c = margin / √n_c, fixed; the ball shrinks as the error of a mean does.

    Every `DROLoss` holds a vector of this module, not a copy, so it sees each update that an
    optimiser makes to `parameters()`.

    Args:
        margin_type: one of `MARGIN_TYPES`.
        margin: the scale of the margins.
        class_counts: training images per class n_c, all at least 1.
        num_layers: L, or None for one vector for the features.

    Raises:
        ValueError: the type is unknown.

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
        if margin_type not in MARGIN_TYPES:
            known = ", ".join(MARGIN_TYPES)
            raise ValueError(f"margin type must be one of {known}, not {margin_type!r}")
        counts = torch.tensor(class_counts, dtype=torch.float32)
        divisors = counts.sqrt() if margin_type == "sample_count" else torch.ones_like(counts)
        self.is_layered = num_layers is not None
        self.epsilons = nn.ParameterList(
            nn.Parameter(margin / divisors, requires_grad=margin_type == "learned")
            for _ in range(num_layers or 1)
        )

    @property
    def trained(self) -> list[nn.Parameter]:
        """Returns the vectors that are trained; empty if the margins are fixed."""
        return [vector for vector in self.epsilons if vector.requires_grad]

    def values(self) -> Tensor:
        """Returns the current margins ``[K]`` or ``[L, K]``, without gradient."""
        rows = [vector.detach() for vector in self.epsilons]
        return torch.stack(rows) if self.is_layered else rows[0]

    @torch.no_grad()
    def load(self, values: Tensor) -> None:
        """Sets the margins to these values ``[K]`` or ``[L, K]``, in place.

        Raises:
            ValueError: the values have another shape.
        """
        if values.shape != self.values().shape:
            shapes = list(values.shape), list(self.values().shape)
            raise ValueError(f"margins of shape {shapes[0]}, not {shapes[1]}")
        for vector, row in zip(self.epsilons, values.view(len(self.epsilons), -1), strict=True):
            vector.copy_(row)

    @torch.no_grad()
    def keep_above(self, lowest: float) -> None:
        """Sets ε_c to max(ε_c, lowest), in place: the projection of a projected gradient step."""
        for vector in self.epsilons:
            vector.clamp_(min=lowest)
