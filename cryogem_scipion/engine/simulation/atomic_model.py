# SPDX-License-Identifier: GPL-3.0-or-later
"""The density of an atomic model: electron scattering factors, B-factors, a resolution limit.

Every atom is the five Gaussians of its electron scattering factor, widened by its B-factor. They are put on a
grid after a further, known blur, without which the narrow ones would fall between the voxels; the blur is divided
out of the spectrum, where the resolution limit also acts, so that the result is exact up to that limit.
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

__all__ = ["Atoms", "atomic_density", "read_atoms", "read_structure"]

VOLTS = 47.877645
"""h² / (2 π m e) in V Å²: electrostatic potential of a scattering length density of 1 Å⁻²."""
OVERSAMPLING = 3.0
"""Voxels of the working grid per resolution limit; more than 2 keeps aliases apart from what is kept."""
BLUR = 110.0
"""B-factor of the blur in voxels²: aliases at the resolution limit fall below 1e-4."""
CUTOFF = 5.0
"""Deviations at which a Gaussian ends; 4e-6 of its height."""
LARGEST = 2048
"""Voxels that a model may reach from its centre."""
SOFT_EDGE = 0.2
"""The part of the frequencies below the limit over which they fall to zero."""


@dataclass(frozen=True)
class Atoms:
    """Isotropic atoms; vectors are (x, y, z)."""

    places: Float[Tensor, "n 3"]
    """Å from the centre of mass."""
    amplitudes: Float[Tensor, "n 5"]
    """Electron scattering length of each Gaussian, Å, times the occupancy."""
    widths: Float[Tensor, "n 5"]
    """B-factor of each Gaussian with the atom's own, Å²."""


def read_structure(path: str | Path, pixel_size: float, resolution_angstrom: float) -> Volume:
    """Read an atomic model (PDB or mmCIF, also gzip) and compute its density.

    See ``read_atoms`` for what of the file is taken, ``atomic_density`` for the density.
    """
    return atomic_density(read_atoms(path), pixel_size, resolution_angstrom)


def read_atoms(path: str | Path) -> Atoms:
    """Atoms of the first model of a file, all chains as they stand there, without waters.

    Alternative positions count with their occupancy; B-factors are taken as isotropic.

    Raises
    ------
    DataError
        The file is missing, no atomic model, holds no atoms, or atoms of no known element or place.

    References
    ----------
    Electron scattering factors: doi:10.1107/S0108767395014371
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} is not a file; give an atomic model in PDB or mmCIF format")
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, IndexError, OSError) as error:  # an IndexError of an empty mmCIF
        reason = " ".join(str(error).split())  # gemmi's has several lines
        raise DataError(f"{path} cannot be read as an atomic model ({reason}); give a PDB or mmCIF file") from error
    structure.remove_waters()
    found = [place.atom for place in structure[0].all() if place.atom.occ > 0] if len(structure) else []
    if not found:
        raise DataError(f"{path} holds no atoms; give an atomic model in PDB or mmCIF format")
    unknown = next((atom for atom in found if atom.element.atomic_number == 0 or atom.element.c4322 is None), None)
    if unknown is not None:
        # Its name may be no text at all.
        raise DataError(f"{path} has an atom (number {unknown.serial}) of the element {unknown.element.name}, whose "
                        "scattering is not known; correct its element, or remove it")
    places = np.array([atom.pos.tolist() for atom in found])
    blurs = np.array([max(atom.b_iso, 0.0) for atom in found])
    if not (np.isfinite(places).all() and np.isfinite(blurs).all()):
        raise DataError(f"{path} has atoms whose coordinates or B-factors are not finite numbers; correct the model")
    occupancy = np.array([[atom.occ] for atom in found])
    factors = [atom.element.c4322 for atom in found]
    mass = occupancy[:, 0] * np.array([atom.element.weight for atom in found])
    amplitudes = occupancy * np.array([factor.a for factor in factors])
    widths = blurs[:, None] + np.array([factor.b for factor in factors])
    centre = (mass[:, None] * places).sum(0) / mass.sum()
    return Atoms(torch.from_numpy(places - centre), torch.from_numpy(amplitudes), torch.from_numpy(widths))


def atomic_density(atoms: Atoms, pixel_size: float, resolution_angstrom: float) -> Volume:
    """Electrostatic potential of atoms in vacuum, volts, in a box that holds them with a margin.

    The frequencies fall softly to zero at the resolution limit, or at the pixel's Nyquist frequency where that
    is coarser. The centre of mass lies at the origin.

    Parameters
    ----------
    atoms
        What ``read_atoms`` made.
    pixel_size
        Å per voxel.
    resolution_angstrom
        The finest detail in the density, Å.
    """
    if not (0 < pixel_size < math.inf and 0 < resolution_angstrom < math.inf):
        raise SettingsError(f"pixel size {pixel_size:g} Å and resolution {resolution_angstrom:g} Å make no density; "
                            "give values above 0")
    limit = max(resolution_angstrom, 2 * pixel_size)
    radius = float(atoms.places.norm(dim=1).max()) + 2 * limit + 5.0
    if radius > LARGEST * pixel_size:
        raise DataError(f"the atoms reach {radius:.3g} Å from their centre, {radius / pixel_size:.3g} voxels; check "
                        "their coordinates, or raise pixel_size")
    box = 2 * fourier.fast_length(math.ceil(radius / pixel_size), real=False)
    finer = math.ceil(OVERSAMPLING * pixel_size / limit)
    voxel = pixel_size / finer
    spectrum = fourier.rfft3(torch.from_numpy(_blurred(atoms, finer * box, voxel))).numpy()
    spectrum = _low_corner(spectrum, box) / finer**3
    whole, half = np.fft.fftfreq(box, pixel_size) ** 2, np.fft.rfftfreq(box, pixel_size) ** 2
    frequency = np.sqrt(whole[:, None, None] + whole[:, None] + half)
    edge = np.clip((1 - frequency * limit) / SOFT_EDGE, 0, 1)
    inside = np.minimum(frequency, 1 / limit)  # the blur's inverse grows beyond bounds outside
    transfer = np.exp(BLUR * (voxel * inside) ** 2 / 4) * np.sin(edge * np.pi / 2) ** 2
    density = fourier.irfft3(torch.from_numpy(spectrum * transfer.astype(np.float32)), (box, box, box)).numpy()
    return Volume(torch.from_numpy(VOLTS * np.fft.fftshift(density)), pixel_size)


def _blurred(atoms: Atoms, size: int, voxel: float) -> NDArray[np.float32]:
    """Scattering length density with the blur on a periodic grid, origin at index 0, Å⁻²."""
    widths = atoms.widths.numpy() + BLUR * voxel**2
    heights = atoms.amplitudes.numpy() * (4 * np.pi / widths) ** 1.5
    grid = np.zeros((size, size, size), np.float32)
    add_gaussians(atoms.places.numpy() / voxel, heights, np.sqrt(widths / (8 * np.pi**2)) / voxel, CUTOFF, grid)
    return grid


def _low_corner(spectrum: NDArray[np.complex64], box: int) -> NDArray[np.complex64]:
    """The low frequencies of a half spectrum that an even box holds."""
    order = np.r_[0 : box // 2, -box // 2 : 0]
    corner: NDArray[np.complex64] = spectrum[order][:, order][:, :, : box // 2 + 1]
    return corner
