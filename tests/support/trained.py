"""Writes a small network with random weights as a checkpoint in the form of a run's."""

import torch

from models import build_model

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
NAMES = ["fox", "ant", "elk", "bee", "dog", "cat"]
"""Not sorted: the order of the classes is that of the network's logits."""


def write_checkpoint(
    folder, names=NAMES, side=8, network="resnet8", head_scale=None, seed=0, **changes
):
    """Writes `ckpt.best.pth.tar` with these changes into the folder, and returns its path."""
    torch.manual_seed(seed)
    model = build_model(network, len(names), head_scale=head_scale)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
    content = {
        "epoch": 3,
        "arch": network,
        "dataset": "folder",
        "state_dict": model.state_dict(),
        "best_acc1": 50.0,
        "data": {
            "normalisation": {"mean": MEAN, "std": STD},
            "streamed": False,
            "image_size": side,
            "class_names": list(names),
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ckpt.best.pth.tar"
    torch.save(content | changes, path)
    return path
