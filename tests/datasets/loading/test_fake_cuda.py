"""Augmentation on CUDA tensors without memory. Only the draws, on the CPU, are real."""

import pytest
import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from datasets.loading import augmentation, autoaugment, operations
from datasets.loading.augmentation import AUGMENTATIONS
from tests.support.fake_cuda import CUDA
from tests.support.helpers import augmented, seeded


@pytest.fixture
def fake_images(fake_mode, monkeypatch):
    """Gives 50 fake images. Tables of the operations are made on the CPU and become fake on the
    device."""

    def to_device(tensor, device):
        with fake_mode:
            return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)

    def arriving(make_tables):
        def make(*arguments):
            with unset_fake_temporarily():  # and uncached: other tests need real tables
                tables = make_tables.__wrapped__(*arguments[:-1], torch.device("cpu"))
            return tuple(to_device(table, CUDA) for table in tables)

        return make

    for module in (augmentation, autoaugment):
        monkeypatch.setattr(module, "to_device", to_device)
    for name in ("_source_positions", "_shear_taps"):
        monkeypatch.setattr(operations, name, arriving(getattr(operations, name)))

    def in_mode(operation):
        def run(*arguments):
            with fake_mode:  # some make tensors of their own
                return operation(*arguments)

        return run

    for name, operation in operations.OPERATIONS.items():
        monkeypatch.setitem(operations.OPERATIONS, name, in_mode(operation))
    with fake_mode:
        return torch.empty(50, 3, 32, 32, dtype=torch.uint8, device=CUDA)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentation_stays_on_the_device(fake_images, fake_mode, name):
    indices, generator = torch.randint(50, (3000,), generator=seeded()), seeded(1)
    result = augmented(name, fake_images, indices, generator)
    assert result.device == CUDA and result.shape == (3000, 3, 32, 32)
    assert result.dtype == torch.uint8


def test_a_draw_left_on_the_cpu_is_seen(fake_images, monkeypatch):
    monkeypatch.setattr(augmentation, "to_device", lambda tensor, device: tensor)
    indices = torch.randint(50, (300,), generator=seeded())
    with pytest.raises(RuntimeError, match="device"):
        augmented("crop_flip", fake_images, indices, seeded(1))
