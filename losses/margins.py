"""The three margins ε of the paper (Samuel and Chechik, ICCV 2021, section 4.3)."""

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
    """Margins ε_c of shape ``[K]``, in units of feature distance.

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


def make_layer_margins(
    margin_type: str,
    margin: float,
    class_counts: Sequence[int],
    num_layers: int,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, list[Tensor]]:
    """Margins of the robust loss on several layers.

    Returns:
        ``(margins [L, K], rows)``: all of them, and by layer those of `make_margins` ``[K]``, which
        share their memory with the first and are what trains.
    """
    rows = [make_margins(margin_type, margin, class_counts, device) for _ in range(num_layers)]
    margins = torch.stack([row.detach() for row in rows])
    is_learned = rows[0].requires_grad
    return margins, [nn.Parameter(row) if is_learned else row for row in margins]
