# SPDX-License-Identifier: GPL-3.0-or-later
"""Crops of micrographs: places, orientations, grey scale."""
import numpy as np
import pytest
import torch

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.translator.crops import (
    RealImages,
    SimulatedImages,
    draw_real_crops,
    draw_simulated_crops,
)


def test_real_crops_are_in_deviations_of_the_noise_without_hot_pixels(generator):
    rng = np.random.default_rng(2)
    images = [rng.normal(500, 25, (70, 90)).astype(np.float32), rng.normal(-3, 2, (64, 64)).astype(np.float32)]
    images[0][::5, ::5] = 30000
    images[1][10, 10] = np.nan
    before = [image.copy() for image in images]
    crops = draw_real_crops(RealImages(images, [500.0, -3.0], [25.0, 2.0]), 48, 40, generator)
    assert crops.shape == (40, 48, 48)
    assert float(crops.max()) == 10
    assert bool(torch.isfinite(crops).all())
    assert abs(float(crops.median())) < 0.1
    for image, old in zip(images, before, strict=True):
        assert np.array_equal(image, old, equal_nan=True)


def test_crops_have_all_rotations_reflections_and_places(generator):
    image = np.arange(34 * 33, dtype=np.float32).reshape(34, 33)
    crops = draw_real_crops(RealImages([image], [0.0], [1e6]), 32, 300, generator) * 1e6
    steps = {(round(float(crop[0, 1] - crop[0, 0])), round(float(crop[1, 0] - crop[0, 0]))) for crop in crops}
    assert steps == {(a, b) for a in (1, -1) for b in (33, -33)} | {(a, b) for a in (33, -33) for b in (1, -1)}
    assert {round(float(crop.min())) for crop in crops} == {0, 1, 33, 34, 66, 67}


def test_masks_have_the_same_window_as_their_images(generator, tmp_path):
    rng = np.random.default_rng(1)
    values = rng.random((80, 60)).astype(np.float32)
    np.save(tmp_path / "clean.npy", values)
    clean = np.load(tmp_path / "clean.npy", mmap_mode="r")
    mask = (values > 0.5).astype(np.uint8)
    crops = draw_simulated_crops(SimulatedImages([clean], [mask]), 32, 6, generator)
    assert torch.equal(crops.masks > 0.5, crops.clean > 0.5)
    assert crops.exposures == (None,) * 6


def test_a_crop_larger_than_a_micrograph_is_refused(generator):
    images = [np.zeros((64, 64), np.float32), np.zeros((100, 40), np.float32)]
    with pytest.raises(DataError, match=r"\(100, 40\) pixels \(y x\), less than a crop of 48; give a smaller crop"):
        draw_real_crops(RealImages(images, [0.0] * 2, [1.0] * 2), 48, 1, generator)
    with pytest.raises(DataError, match="smallest of 0"):
        draw_simulated_crops(SimulatedImages([], []), 48, 1, generator)
