# SPDX-License-Identifier: GPL-3.0-or-later
"""Density of an atomic model from electron scattering factors and B-factors, up to a resolution limit.

Each atom is the sum of the five Gaussians of its electron scattering factor, widened by its B-factor. The narrow
Gaussians would fall between the voxels of a grid. Therefore all Gaussians get a known additional blur before they are
added to the grid. The spectrum is then divided by this blur and cut at the resolution limit, so that the result is
exact up to the limit.
"""
import math
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.errors import DataError, SettingsError
from cryogem_scipion.engine.simulation.atom_kernel import add_gaussians
from cryogem_scipion.engine.simulation.volume import Volume

__all__ = ["Atoms", "atomic_density", "read_atomic_density", "read_atoms"]

POTENTIAL_FACTOR = 47.877645
"""h² / (2 π m e) in V Å²: electrostatic potential of a scattering length density of 1 Å⁻²."""
OVERSAMPLING = 3.0
"""Voxels of the fine grid per resolution limit; more than 2 separates the aliases from the frequencies in use."""
BLUR = 110.0
"""B-factor of the additional blur, voxels²; aliases at the resolution limit are then below 1e-4."""
CUTOFF = 5.0
"""Number of standard deviations at which a Gaussian ends, at 4e-6 of its height."""
MAX_RADIUS_VOXELS = 2048
"""Largest distance of an atom from the centre of mass, voxels."""
SOFT_EDGE = 0.2
"""Width of the soft edge below the resolution limit, as a fraction of the limit's frequency."""


@dataclass(frozen=True)
class Atoms:
    """Isotropic atoms; vectors are (x, y, z)."""

    positions: Float[Tensor, "n 3"]
    """Å from the centre of mass."""
    amplitudes: Float[Tensor, "n 5"]
    """Electron scattering length of each Gaussian times the occupancy, Å."""
    b_factors: Float[Tensor, "n 5"]
    """B-factor of each Gaussian plus that of the atom, Å²."""


def read_atomic_density(path: str | Path, pixel_size: float, resolution_angstrom: float) -> Volume:
    """Read an atomic model (PDB or mmCIF, also gzip) and compute its density.

    ``read_atoms`` says which atoms are used, ``atomic_density`` how the density is computed.

    Parameters
    ----------
    path
        The atomic model.
    pixel_size
        Å per voxel.
    resolution_angstrom
        Resolution limit, Å.

    Raises
    ------
    DataError
        The file cannot be used.
    SettingsError
        The pixel size or the resolution limit is not positive.
    """
    return atomic_density(read_atoms(path), pixel_size, resolution_angstrom)


def read_atoms(path: str | Path) -> Atoms:
    """Read the atoms of the first model in a file: all chains, without waters and without symmetry copies.

    Alternative positions count with their occupancy. B-factors are taken as isotropic.

    Raises
    ------
    DataError
        The file is missing, is no atomic model or holds no atoms, or an element or a position is not known.

    References
    ----------
    Electron scattering factors: doi:10.1107/S0108767395014371; gemmi, which reads the file: doi:10.21105/joss.04200
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is not a file; give an atomic model in PDB or mmCIF format")
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, IndexError, OSError) as error:  # gemmi raises IndexError for an empty mmCIF
        reason = " ".join(str(error).split())  # gemmi's message has several lines
        raise DataError(f"{path} cannot be read as an atomic model ({reason}); give a PDB or mmCIF file") from error
    structure.remove_waters()
    atoms = [place.atom for place in structure[0].all() if place.atom.occ > 0] if len(structure) else []
    if not atoms:
        raise DataError(f"{path} holds no atoms; give an atomic model in PDB or mmCIF format")
    unknown = next((atom for atom in atoms if atom.element.atomic_number == 0 or atom.element.c4322 is None), None)
    if unknown is not None:
        # A damaged file may have any bytes as the atom's name, so the message gives its number.
        raise DataError(f"{path} has an atom (number {unknown.serial}) of the element {unknown.element.name}, whose "
                        "scattering is not known; correct its element, or remove it")
    positions = np.array([atom.pos.tolist() for atom in atoms])
    b_factors = np.array([max(atom.b_iso, 0.0) for atom in atoms])
    if not (np.isfinite(positions).all() and np.isfinite(b_factors).all()):
        raise DataError(f"{path} has atoms whose coordinates or B-factors are not finite numbers; correct the model")
    occupancy = np.array([[atom.occ] for atom in atoms])
    factors = [atom.element.c4322 for atom in atoms]
    mass = occupancy[:, 0] * np.array([atom.element.weight for atom in atoms])
    amplitudes = occupancy * np.array([factor.a for factor in factors])
    gaussian_b_factors = b_factors[:, None] + np.array([factor.b for factor in factors])
    centre = (mass[:, None] * positions).sum(0) / mass.sum()
    return Atoms(torch.from_numpy(positions - centre), torch.from_numpy(amplitudes),
                 torch.from_numpy(gaussian_b_factors))


def atomic_density(atoms: Atoms, pixel_size: float, resolution_angstrom: float) -> Volume:
    """Electrostatic potential of atoms in vacuum, volts, in a box with a margin around them.

    The spectrum falls softly to zero at the resolution limit, or at the Nyquist frequency if that is lower. The centre
    of mass lies at the origin.

    Parameters
    ----------
    atoms
        Result of ``read_atoms``.
    pixel_size
        Å per voxel.
    resolution_angstrom
        Resolution limit, Å.

    Raises
    ------
    SettingsError
        The pixel size or the resolution limit is not positive.
    DataError
        An atom lies too far from the centre.

    References
    ----------
    Electron scattering factors: doi:10.1107/S0108767395014371
    """
    if not (0 < pixel_size < math.inf and 0 < resolution_angstrom < math.inf):
        raise SettingsError(f"pixel size {pixel_size:g} Å and resolution {resolution_angstrom:g} Å make no density; "
                            "give values above 0")
    limit = max(resolution_angstrom, 2 * pixel_size)
    radius = float(atoms.positions.norm(dim=1).max()) + 2 * limit + 5.0
    if radius > MAX_RADIUS_VOXELS * pixel_size:
        raise DataError(f"the atoms are up to {radius:.3g} Å ({radius / pixel_size:.3g} voxels) from their centre; "
                        "check their coordinates, or raise pixel_size")
    box = 2 * fourier.fast_length(math.ceil(radius / pixel_size), real=False)
    oversampling = math.ceil(OVERSAMPLING * pixel_size / limit)
    fine_pixel_size = pixel_size / oversampling
    spectrum = fourier.rfft3(torch.from_numpy(_blurred_density(atoms, oversampling * box, fine_pixel_size))).numpy()
    spectrum = _cropped_spectrum(spectrum, box) / oversampling**3
    squares, half_squares = np.fft.fftfreq(box, pixel_size) ** 2, np.fft.rfftfreq(box, pixel_size) ** 2
    frequency = np.sqrt(squares[:, None, None] + squares[:, None] + half_squares)
    edge = np.clip((1 - frequency * limit) / SOFT_EDGE, 0, 1)
    clipped_frequency = np.minimum(frequency, 1 / limit)  # beyond the limit the inverse of the blur would overflow
    filter_values = np.exp(BLUR * (fine_pixel_size * clipped_frequency) ** 2 / 4) * np.sin(edge * np.pi / 2) ** 2
    density = fourier.irfft3(torch.from_numpy(spectrum * filter_values.astype(np.float32)), (box, box, box)).numpy()
    return Volume(torch.from_numpy(POTENTIAL_FACTOR * np.fft.fftshift(density)), pixel_size)


def _blurred_density(atoms: Atoms, size: int, pixel_size: float) -> NDArray[np.float32]:
    """Blurred scattering length density on a periodic grid, Å⁻², with the origin at index 0."""
    b_factors = atoms.b_factors.numpy() + BLUR * pixel_size**2
    heights = atoms.amplitudes.numpy() * (4 * np.pi / b_factors) ** 1.5
    grid = np.zeros((size, size, size), np.float32)
    sigmas = np.sqrt(b_factors / (8 * np.pi**2)) / pixel_size
    add_gaussians(atoms.positions.numpy() / pixel_size, heights, sigmas, CUTOFF, grid)
    return grid


def _cropped_spectrum(spectrum: NDArray[np.complex64], box: int) -> NDArray[np.complex64]:
    """The frequencies of a half spectrum that a smaller, even box holds."""
    order = np.r_[0 : box // 2, -box // 2 : 0]
    corner: NDArray[np.complex64] = spectrum[order][:, order][:, :, : box // 2 + 1]
    return corner
