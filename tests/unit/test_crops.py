# SPDX-License-Identifier: GPL-3.0-or-later
"""Pieces of micrographs: places, turns, grey scale."""
import numpy as np
import pytest
import torch

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.translator.crops import (
    RealMicrographs,
    SimulatedMicrographs,
    draw_real_crops,
    draw_simulated_crops,
)


def test_real_pieces_are_deviations_with_hot_pixels_cut(generator):
    rng = np.random.default_rng(2)
    images = [rng.normal(500, 25, (70, 90)).astype(np.float32), rng.normal(-3, 2, (64, 64)).astype(np.float32)]
    images[0][::5, ::5] = 30000
    images[1][10, 10] = np.nan
    before = [image.copy() for image in images]
    pieces = draw_real_crops(RealMicrographs(images, [500.0, -3.0], [25.0, 2.0]), 48, 40, generator)
    assert pieces.shape == (40, 48, 48)
    assert float(pieces.max()) == 10
    assert bool(torch.isfinite(pieces).all())
    assert abs(float(pieces.median())) < 0.1
    for image, old in zip(images, before, strict=True):
        assert np.array_equal(image, old, equal_nan=True)


def test_all_turns_and_mirrors_and_places_appear(generator):
    image = np.arange(34 * 33, dtype=np.float32).reshape(34, 33)
    pieces = draw_real_crops(RealMicrographs([image], [0.0], [1e6]), 32, 300, generator) * 1e6
    seen = {(round(float(p[0, 1] - p[0, 0])), round(float(p[1, 0] - p[0, 0]))) for p in pieces}
    assert seen == {(a, b) for a in (1, -1) for b in (33, -33)} | {(a, b) for a in (33, -33) for b in (1, -1)}
    assert {round(float(p.min())) for p in pieces} == {0, 1, 33, 34, 66, 67}


def test_masks_are_cut_where_their_images_are(generator, tmp_path):
    rng = np.random.default_rng(1)
    stored = rng.random((80, 60)).astype(np.float32)
    np.save(tmp_path / "clean.npy", stored)
    clean = np.load(tmp_path / "clean.npy", mmap_mode="r")
    mask = (stored > 0.5).astype(np.uint8)
    pieces = draw_simulated_crops(SimulatedMicrographs([clean], [mask]), 32, 6, generator)
    assert torch.equal(pieces.masks > 0.5, pieces.clean > 0.5)
    assert pieces.exposures == (None,) * 6


def test_a_crop_larger_than_a_micrograph_is_refused(generator):
    images = [np.zeros((64, 64), np.float32), np.zeros((100, 40), np.float32)]
    with pytest.raises(DataError, match=r"\(100, 40\) pixels; pieces of 48 need a smaller crop"):
        draw_real_crops(RealMicrographs(images, [0.0] * 2, [1.0] * 2), 48, 1, generator)
    with pytest.raises(DataError, match="smallest of 0"):
        draw_simulated_crops(SimulatedMicrographs([], []), 48, 1, generator)
