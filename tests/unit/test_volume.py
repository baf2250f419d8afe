# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading of maps, errors for unusable files, and mask and diameter of the particle."""
import gzip
import shutil

import mrcfile
import numpy as np
import pytest
import torch

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.simulation.phantom import Gaussians, gaussian_density, phantom
from cryogem_scipion.engine.simulation.volume import Volume, diameter_angstrom, particle_voxels, read_volume


@pytest.fixture
def cube(generator):
    data = torch.rand(8, 8, 8, generator=generator).numpy()
    data[[0, -1]] = data[:, [0, -1]] = data[:, :, [0, -1]] = 0
    return data


def write(path, data, voxel_size=3.5):
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(data)
        file.voxel_size = voxel_size
    return path


@pytest.mark.parametrize("kind", ["f4", ">f4", "i2", ">i2", "f2", "i1", "u2"])
def test_all_number_types_are_read(tmp_path, cube, kind):
    data = (cube * 100).astype(kind)
    volume = read_volume(write(tmp_path / "map.mrc", data))
    assert volume.pixel_size == pytest.approx(3.5)
    assert volume.density.dtype == torch.float32
    np.testing.assert_array_equal(volume.density.numpy(), data.astype(np.float32))


def test_compressed_maps_are_read_and_a_given_pixel_size_replaces_the_header(tmp_path, cube):
    path = write(tmp_path / "map.mrc", cube, 0.0)
    with path.open("rb") as plain, gzip.open(tmp_path / "map.mrc.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    for name in ("map.mrc", "map.mrc.gz"):
        volume = read_volume(tmp_path / name, pixel_size=2.0)
        assert volume.pixel_size == 2.0
        np.testing.assert_array_equal(volume.density.numpy(), cube)


def test_the_solvent_density_is_subtracted(tmp_path, cube):
    volume = read_volume(write(tmp_path / "map.mrc", cube + np.float32(7)))
    np.testing.assert_allclose(volume.density.numpy(), cube, atol=1e-6)  # rounding of 7.x in float32


@pytest.mark.parametrize("shape", [(6, 9, 8), (9, 6, 4), (5, 5, 8)])
def test_maps_are_padded_to_a_cube_around_the_origin(tmp_path, shape):
    data = np.zeros(shape, np.float32)
    data[tuple(length // 2 for length in shape)] = 1
    volume = read_volume(write(tmp_path / "map.mrc", data))
    size = max(shape)
    assert volume.density.shape == (size, size, size)
    assert volume.density[size // 2, size // 2, size // 2] == 1
    assert volume.density.sum() == 1


def test_permuted_axes_are_put_in_order(tmp_path, cube):
    path = write(tmp_path / "map.mrc", np.ascontiguousarray(cube.transpose(2, 0, 1)))  # sections x, rows z, columns y
    with mrcfile.open(path, "r+") as file:
        file.header.maps, file.header.mapr, file.header.mapc = 1, 3, 2
    np.testing.assert_array_equal(read_volume(path).density.numpy(), cube)


def flat(path):
    write(path, np.full((6, 6, 6), 2.5, np.float32))


def not_finite(path):
    data = np.zeros((6, 6, 6), np.float32)
    data[1, 2, 3], data[0, 0, 0] = np.nan, np.inf
    write(path, data)


def truncated(path):
    write(path, np.zeros((16, 16, 16), np.float32))
    path.write_bytes(path.read_bytes()[:3000])


def unknown_mode(path):
    header(path, 12, 77)


def empty_dimensions(path):
    header(path, 0, 0)


def header(path, place, value):
    """A map with one number of its header replaced."""
    write(path, np.zeros((16, 16, 16), np.float32))
    content = bytearray(path.read_bytes())
    content[place : place + 4] = value.to_bytes(4, "little")
    path.write_bytes(bytes(content))


def truncated_packed(path):
    truncated(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


def no_pixel_size(path, value=0.0):
    data = np.zeros((6, 6, 6), np.float32)
    data[3, 3, 3] = 1
    write(path, data, value)


@pytest.mark.parametrize(("make", "message"), [
    (lambda path: None, "bad.mrc is not a file; give a map in MRC or CCP4 format"),
    (lambda path: path.mkdir(), "bad.mrc is not a file"),
    (lambda path: path.touch(), r"bad.mrc is empty \(0 bytes\); give a complete map file"),
    (lambda path: path.write_bytes(b"short"), r"bad.mrc cannot be read as a map \(no MAP in its header\); give a"),
    (lambda path: path.write_text("text " * 1000), r"bad.mrc cannot be read as a map \(no MAP in its header\)"),
    (lambda path: path.write_bytes(gzip.compress(b"text " * 999)), r"bad.mrc cannot be read as a map \(no MAP"),
    (lambda path: path.write_bytes(b"\x1f\x8b broken"), r"bad.mrc cannot be read as a map \(.+\); give a complete"),
    (unknown_mode, "bad.mrc is truncated or not a map: its header announces 16 x 16 x 16 voxels of mode 77; give"),
    (empty_dimensions, "bad.mrc is truncated or not a map: its header announces 0 x 16 x 16 voxels of mode 2; give"),
    (truncated, "bad.mrc is truncated or not a map: its header announces 16 x 16 x 16 voxels of mode 2; give"),
    (truncated_packed, "bad.mrc is truncated or not a map: its header announces 16 x 16 x 16 voxels"),
    (lambda path: write(path, np.eye(6, dtype=np.float32)), r"bad.mrc has the shape \(6, 6\); give a map with three"),
    (lambda path: write(path, np.eye(6, dtype=np.float32)[None]), r"bad.mrc has the shape \(1, 6, 6\)"),
    (lambda path: write(path, np.ones((4, 4, 4), np.complex64)), "bad.mrc holds complex numbers; give a map in real"),
    (not_finite, "bad.mrc has 2 voxels that are not finite numbers; repair or recompute the map"),
    (flat, r"bad.mrc is constant \(2.5 everywhere\); give a map with a particle in it"),
    (no_pixel_size, "bad.mrc has pixel size 0; set pixel_size"),
    (lambda path: no_pixel_size(path, -1.5), "bad.mrc has pixel size -1.5; set pixel_size"),
    (lambda path: no_pixel_size(path, (1.0, 1.0, 1.2)), r"bad.mrc has different pixel sizes .+ \(1, 1, 1.2\)"),
])
@pytest.mark.filterwarnings("ignore:Data array contains")
def test_unusable_map_files_are_refused(tmp_path, make, message):
    make(tmp_path / "bad.mrc")
    with pytest.raises(DataError, match=message):
        read_volume(tmp_path / "bad.mrc")


def test_unusable_pixel_sizes_and_shapes_are_refused(tmp_path):
    with pytest.raises(DataError, match="pixel_size is -2; give a value above 0"):
        read_volume(tmp_path / "map.mrc", pixel_size=-2.0)
    with pytest.raises(DataError, match=r"the density has the shape \(4, 4, 5\); pad it to a cube"):
        Volume(torch.zeros(4, 4, 5), 1.0)
    with pytest.raises(DataError, match="the volume has pixel size 0; set pixel_size"):
        Volume(torch.zeros(4, 4, 4), 0.0)


def ball(box, radius):
    positions = torch.arange(box) - box // 2
    distance = (positions[:, None, None] ** 2 + positions[:, None] ** 2 + positions**2).double().sqrt()
    return torch.sigmoid((radius - distance) / 0.7).float()


@pytest.mark.parametrize("noise", [0.0, 0.03, 0.1])
@pytest.mark.parametrize("box", [48, 49])
def test_the_mask_of_a_ball_is_right_with_and_without_noise(box, noise, generator):
    noisy = ball(box, 14.0) + noise * torch.randn(box, box, box, generator=generator)
    mask = particle_voxels(Volume(noisy, 2.0))
    inside, outside = ball(box, 12.0) > 0.5, ball(box, 18.0) < 0.5
    assert mask[inside].all()
    assert not mask[outside].any()
    # The soft edge counts down to a tenth of its height: 2 voxels on both sides, 3 with noise.
    assert 2 * (2 * 14.0) <= diameter_angstrom(Volume(noisy, 2.0)) <= 2 * (2 * 14.0 + 6)


def test_diameter_is_the_largest_extent():
    centres = torch.tensor([[-30.0, 0, 0], [-15, 0, 0], [0, 0, 0], [15, 0, 0], [30, 0, 0]])
    rod = Gaussians(centres, torch.full((5,), 8.0), torch.ones(5))
    # A tenth of the height lies 2.15 standard deviations from the centre; grid and smoothing allow 2 voxels.
    assert diameter_angstrom(gaussian_density(rod, 60, 2.0)) == pytest.approx(60 + 2 * 2.15 * 8, abs=4)


def test_a_single_voxel_has_a_diameter_and_an_empty_map_is_refused():
    density = torch.zeros(24, 24, 24)
    density[12, 12, 12] = 1
    assert 0 < diameter_angstrom(Volume(density, 3.0)) < 24
    with pytest.raises(DataError, match="holds no particle that stands out from its solvent; use another map"):
        diameter_angstrom(Volume(torch.zeros(8, 8, 8), 1.0))


def test_masks_and_diameters_do_not_change_the_volume():
    volume = phantom(32, 8.0)
    before = volume.density.clone()
    particle_voxels(volume)
    diameter_angstrom(volume)
    assert torch.equal(before, volume.density)
