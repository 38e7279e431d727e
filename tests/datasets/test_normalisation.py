"""The means and deviations with which images are normalised."""

import numpy as np
import pytest
import torch
from torchvision.models import ResNet50_Weights

from datasets import load_data, normalisation
from tests.support.own_images import npz_data, write_npz
from tests.support.pictures import noise, options, pixels_of
from utils.errors import UserError


def test_the_constants_are_the_released_codes_and_those_of_public_weights():
    released = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    assert (normalisation.CIFAR.mean, normalisation.CIFAR.std) == released
    public = ResNet50_Weights.IMAGENET1K_V1.transforms()
    assert normalisation.IMAGENET.mean == tuple(public.mean)
    assert normalisation.IMAGENET.std == tuple(public.std)


def test_own_data_are_normalised_by_their_training_images(tmp_path):
    write_npz(tmp_path / "own.npz", colour=True)
    data = npz_data(tmp_path / "own.npz")
    scaled = pixels_of(data.train).reshape(-1, 3) / 255.0
    np.testing.assert_allclose(data.normalisation.mean, scaled.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(data.normalisation.std, scaled.std(axis=0), rtol=1e-12)
    for name, constants in normalisation.CONSTANTS.items():
        chosen = npz_data(tmp_path / "own.npz", "--normalisation", name)
        assert chosen.normalisation == constants
    assert load_data(options("--dataset", "digits")).normalisation == normalisation.CIFAR


def test_images_count_alike_in_one_batch_and_in_several():
    images = torch.from_numpy(noise(7, 3, 4, 4))
    assert normalisation.of_images(images.split(3)) == normalisation.of_images([images])


def test_a_channel_without_deviation_is_only_centred():
    images = torch.full((2, 3, 4, 4), 51, dtype=torch.uint8)
    found = normalisation.of_images([images])
    assert found.mean == pytest.approx((0.2,) * 3) and found.std == (1.0,) * 3


def test_the_recorded_normalisation_counts_where_none_is_asked_for(tmp_path):
    write_npz(tmp_path / "own.npz")
    remembered = {"data": {"normalisation": {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}}}
    chosen = options("--dataset", "npz", "--data_root", tmp_path / "own.npz")
    assert load_data(chosen, remembered).normalisation.mean == (0.1, 0.2, 0.3)
    for damaged in (
        {},
        {"mean": [0.1], "std": [1.0] * 3},
        {"mean": [0.1] * 3, "std": [0.0] * 3},
        3,
    ):
        with pytest.raises(UserError, match="recorded normalisation"):
            load_data(chosen, {"data": {"normalisation": damaged}})
