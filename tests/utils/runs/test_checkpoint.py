"""Checkpoints: what is left after a full disk."""

import resource

import pytest
import torch

from utils.runs import checkpoint


def test_a_disk_that_is_full_in_the_middle_of_a_file_is_an_error_of_the_disk(tmp_path):
    """If torch wrote the file itself, this would be a RuntimeError about positions."""
    path = tmp_path / "ckpt.pth.tar"
    checkpoint.save(path, {"state_dict": {"w": torch.zeros(3)}})
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            checkpoint.save(path, {"state_dict": {"w": torch.zeros(10_000)}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
