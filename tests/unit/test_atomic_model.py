# SPDX-License-Identifier: GPL-3.0-or-later
"""Densities of atomic models compared with those of gemmi, and errors for unusable files."""
import gzip
import math

import gemmi
import numpy as np
import pytest
import torch

from cryogem_scipion.engine.errors import DataError, SettingsError
from cryogem_scipion.engine.simulation.atomic_model import (
    POTENTIAL_FACTOR,
    SOFT_EDGE,
    atomic_density,
    read_atomic_density,
    read_atoms,
)
from cryogem_scipion.engine.simulation.volume import diameter_angstrom

ELEMENTS = ["C", "C", "N", "O", "S", "P", "Zn", "C", "O", "N"]


def model(count=40, seed=3):
    """Atoms in a flat ellipsoid around (30, -20, 10), some with occupancy 0.5, with B-factors of 5 to 120."""
    random = np.random.default_rng(seed)
    chain = gemmi.Chain("A")
    for index in range(count):
        residue, atom = gemmi.Residue(), gemmi.Atom()
        residue.name, residue.seqid = "UNK", gemmi.SeqId(str(index + 1))
        atom.name, atom.element = "X", gemmi.Element(ELEMENTS[index % len(ELEMENTS)])
        atom.pos = gemmi.Position(*(random.normal(size=3) * [12, 8, 4] + [30, -20, 10]).round(3))
        atom.b_iso, atom.occ = round(random.uniform(5, 120), 2), [1.0, 0.5][index % 7 == 0]
        residue.add_atom(atom)
        chain.add_residue(residue)
    structure = gemmi.Structure()
    structure.add_model(gemmi.Model(1))
    structure[0].add_chain(chain)
    return structure


def water(structure):
    residue, atom = gemmi.Residue(), gemmi.Atom()
    residue.name, residue.seqid = "HOH", gemmi.SeqId("500")
    atom.name, atom.element, atom.pos = "O", gemmi.Element("O"), gemmi.Position(80, 80, 80)
    residue.add_atom(atom)
    structure[0]["A"].add_residue(residue)
    return structure


@pytest.fixture
def files(tmp_path):
    """The model, with a water molecule, in all supported formats."""
    structure = water(model())
    structure.write_pdb(str(tmp_path / "model.pdb"))
    structure.make_mmcif_document().write_file(str(tmp_path / "model.cif"))
    for name in ("model.pdb", "model.cif"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    return tmp_path


def filtered(density, voxel, box, pixel_size, limit):
    """The low frequencies of a fine density, with the soft edge of ``atomic_density`` and on its grid."""
    spectrum = np.fft.fftn(density)
    keep = np.r_[0 : box // 2, -box // 2 : 0]
    spectrum = spectrum[np.ix_(keep, keep, keep)] * (box / len(density)) ** 3
    frequency = np.fft.fftfreq(box, pixel_size)
    s = np.sqrt(frequency[:, None, None] ** 2 + frequency[:, None] ** 2 + frequency**2)
    edge = np.clip((1 - s * limit) / SOFT_EDGE, 0, 1)
    return np.fft.fftshift(np.fft.ifftn(spectrum * np.sin(edge * np.pi / 2) ** 2).real)


@pytest.mark.parametrize(("pixel_size", "resolution"), [(2.0, 6.0), (1.5, 3.0), (3.0, 4.0)])
def test_the_density_agrees_with_that_of_gemmi(files, pixel_size, resolution):
    volume = read_atomic_density(files / "model.cif", pixel_size, resolution)
    box = volume.density.shape[0]
    structure = model()
    mass = np.array([place.atom.occ * place.atom.element.weight for place in structure[0].all()])
    positions = np.array([place.atom.pos.tolist() for place in structure[0].all()])
    centre = (mass[:, None] * positions).sum(0) / mass.sum()
    for place in structure[0].all():
        place.atom.pos = gemmi.Position(*(np.array(place.atom.pos.tolist()) - centre))
    calculator = gemmi.DensityCalculatorE()
    calculator.d_min, calculator.cutoff = 0.5, 1e-7
    side = box * pixel_size
    fine_box = box * math.ceil(pixel_size / 0.5)
    calculator.grid.unit_cell = gemmi.UnitCell(side, side, side, 90, 90, 90)
    calculator.grid.spacegroup = gemmi.SpaceGroup("P1")
    calculator.grid.set_size(fine_box, fine_box, fine_box)
    calculator.add_model_density_to_grid(structure[0])
    grid = np.array(calculator.grid, copy=True).transpose(2, 1, 0)  # gemmi's grid is [x, y, z]
    expected = POTENTIAL_FACTOR * filtered(grid, side / fine_box, box, pixel_size, max(resolution, 2 * pixel_size))
    error = np.linalg.norm(volume.density.numpy() - expected) / np.linalg.norm(expected)
    assert error < 1e-5  # float32; both programs end their Gaussians where they are smaller than that


def test_all_formats_give_the_same_atoms(files):
    reference = read_atoms(files / "model.cif")
    assert len(reference.positions) == 40  # without the water
    for name in ("model.pdb", "model.pdb.gz", "model.cif.gz"):
        atoms = read_atoms(files / name)
        torch.testing.assert_close(atoms.positions, reference.positions)
        torch.testing.assert_close(atoms.amplitudes, reference.amplitudes)
        torch.testing.assert_close(atoms.b_factors, reference.b_factors)


def test_the_integral_is_the_scattering_at_zero_angle(files):
    atoms = read_atoms(files / "model.pdb")
    volume = atomic_density(atoms, 2.5, 8.0)
    # 1e-4, because the Gaussians are cut off.
    expected = POTENTIAL_FACTOR * float(atoms.amplitudes.sum())
    assert float(volume.density.sum()) * 2.5**3 == pytest.approx(expected, rel=1e-4)


def test_the_density_is_centred_and_ends_before_the_border_of_the_box(files):
    volume = read_atomic_density(files / "model.pdb", 2.0, 6.0)
    density = volume.density.clamp(min=0.05 * float(volume.density.max())) - 0.05 * volume.density.max()
    positions = torch.arange(len(density)) - len(density) // 2
    for axes in ((1, 2), (0, 2), (0, 1)):
        profile = density.sum(axes)
        # Below one voxel, not 0: the centre of mass is not that of the potential.
        assert abs(float((profile * positions).sum() / profile.sum())) < 1
    border = torch.cat([volume.density[0].flatten(), volume.density[:, 0].flatten(), volume.density[..., 0].flatten()])
    assert border.abs().max() < 0.01 * volume.density.max()
    assert diameter_angstrom(volume) < 2 * (len(density) // 2) * 2.0


def test_no_frequency_is_above_the_resolution_limit(files):
    volume = read_atomic_density(files / "model.pdb", 2.0, 10.0)
    frequency = torch.fft.fftfreq(len(volume.density), 2.0)
    s = (frequency[:, None, None] ** 2 + frequency[:, None] ** 2 + frequency**2).sqrt()
    power = torch.fft.fftn(volume.density).abs()
    assert power[s > 0.1].max() < 1e-5 * power.max()  # rounding
    assert power[(s > 0.06) & (s < 0.08)].max() > 1e-2 * power.max()


def test_b_factors_damp_the_spectrum(files):
    sharp, soft = model(), model()
    for place in soft[0].all():
        place.atom.b_iso += 200
    for structure, name in ((sharp, "sharp.pdb"), (soft, "soft.pdb")):
        structure.write_pdb(str(files / name))
    sharp_density, soft_density = (read_atomic_density(files / name, 2.0, 6.0).density
                                   for name in ("sharp.pdb", "soft.pdb"))
    ratio = torch.fft.rfftn(soft_density).abs()[0, 0, 6] / torch.fft.rfftn(sharp_density).abs()[0, 0, 6]
    s = 6 / (len(sharp_density) * 2.0)
    assert float(ratio) == pytest.approx(math.exp(-200 * s**2 / 4), rel=1e-3)


def broken(path, old, new):
    text = (path.parent / "model.pdb").read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(("make", "message"), [
    (lambda path: None, "bad.pdb is not a file; give an atomic model in PDB or mmCIF format"),
    (lambda path: path.touch(), "bad.pdb holds no atoms; give an atomic model"),
    (lambda path: path.write_text("nothing\n" * 5), "bad.pdb holds no atoms; give an atomic model"),
    (lambda path: path.write_text("ATOM      1  CA  GLY A"), r"bad.pdb cannot be read as an atomic model \(.+\)"),
    (lambda path: broken(path, "ZN", " X"), r"bad.pdb has an atom .* of the element X, whose scattering"),
    (lambda path: broken(path, "ZN", "ES"), "of the element Es, whose scattering is not known; correct its element"),
])
def test_files_that_are_no_atomic_models_are_refused(files, make, message):
    make(files / "bad.pdb")
    with pytest.raises(DataError, match=message):
        read_atoms(files / "bad.pdb")


def test_an_empty_mmcif_is_refused(tmp_path):
    (tmp_path / "bad.cif").touch()
    with pytest.raises(DataError, match=r"bad.cif cannot be read as an atomic model \(.+\)"):
        read_atoms(tmp_path / "bad.cif")


def test_atoms_without_coordinates_are_refused(files):
    text = (files / "model.cif").read_text()
    x = f"{model()[0]['A'][0][0].pos.x:g}"
    assert x in text
    (files / "bad.cif").write_text(text.replace(x, "?", 1))
    with pytest.raises(DataError, match=r"bad.cif has atoms whose coordinates or B-factors are not finite numbers"):
        read_atoms(files / "bad.cif")


@pytest.mark.parametrize(("pixel_size", "resolution"), [(0.0, 5.0), (2.0, -1.0), (float("nan"), 5.0)])
def test_unusable_pixel_sizes_and_resolutions_are_refused(files, pixel_size, resolution):
    with pytest.raises(SettingsError, match="make no density; give values above 0"):
        read_atomic_density(files / "model.pdb", pixel_size, resolution)
