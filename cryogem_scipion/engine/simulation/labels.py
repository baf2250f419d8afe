# SPDX-License-Identifier: GPL-3.0-or-later
"""Labels of a specimen as rows of STAR files, and extraction of its particles."""
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryogem_scipion.engine.io.dataset import MOTION, VARIATION
from cryogem_scipion.engine.io.particle_boxes import normalised_particles
from cryogem_scipion.engine.simulation.ctf import Optics
from cryogem_scipion.engine.simulation.microscope import Microscope, Specimen
from cryogem_scipion.engine.simulation.projection import euler_angles

__all__ = ["cut_boxes", "extract_boxes", "micrograph_row", "optics_table", "particle_rows"]


def optics_table(microscope: Microscope, with_images: bool) -> pd.DataFrame:
    """RELION's optics table, one row; ``with_images`` adds pixel size and box size of the particle images."""
    settings = microscope.settings
    row: dict[str, object] = {
        "rlnOpticsGroup": 1, "rlnOpticsGroupName": "opticsGroup1", "rlnVoltage": settings.voltage_kv,
        "rlnSphericalAberration": settings.cs_mm, "rlnAmplitudeContrast": settings.amplitude_contrast,
        "rlnMicrographPixelSize": microscope.pixel_size, "rlnMicrographOriginalPixelSize": microscope.pixel_size}
    if with_images:
        row |= {"rlnImagePixelSize": microscope.pixel_size, "rlnImageSize": microscope.box_size,
                "rlnImageDimensionality": 2}
    return pd.DataFrame([row])


def micrograph_row(name: str, mask: str, specimen: Specimen) -> dict[str, object]:
    """One row of micrographs.star; ``name`` and ``mask`` are paths inside the dataset folder."""
    motion = specimen.optics.motion
    values = {} if motion is None else dict(zip(MOTION, vars(motion).values(), strict=True))
    return {"rlnMicrographName": name, "rlnOpticsGroup": 1, **_ctf(specimen.optics), **values, "cryogemMask": mask}


def particle_rows(name: str, specimen: Specimen, pixel_size: float, earlier_particles: int) -> pd.DataFrame:
    """Rows of particles.star for the particles of one micrograph.

    RELION rounds coordinates down when it extracts particles. Therefore the coordinate is floor(centre), and the
    origin holds the rest: true centre = coordinate - origin / pixel size.

    Parameters
    ----------
    name
        Path of the micrograph inside the dataset folder.
    specimen
        The particles of the micrograph.
    pixel_size
        Å per pixel.
    earlier_particles
        Number of particles on the micrographs before; the random halves 1 and 2 alternate over the whole dataset.

    References
    ----------
    RELION: doi:10.1016/j.jsb.2012.09.006
    """
    centres = specimen.centres.double().cpu().numpy()
    whole_pixels = np.floor(centres)
    origins = (whole_pixels - centres) * pixel_size
    rot, tilt, psi = euler_angles(specimen.rotations).double().cpu().numpy().T
    count = len(centres)
    heights = specimen.heights.double().cpu().numpy()
    optics, varied = _ctf(specimen.optics), _variation(specimen)
    # A particle nearer to the electron source is less underfocused.
    defocus = {name: optics[name] - heights for name in ("rlnDefocusU", "rlnDefocusV")}
    return pd.DataFrame({
        "rlnMicrographName": name, "rlnOpticsGroup": np.ones(count, int),
        "rlnCoordinateX": whole_pixels[:, 1], "rlnCoordinateY": whole_pixels[:, 0],
        "rlnAngleRot": rot, "rlnAngleTilt": tilt, "rlnAnglePsi": psi,
        "rlnOriginXAngst": origins[:, 1], "rlnOriginYAngst": origins[:, 0], **optics, **defocus,
        **varied,
        "rlnRandomSubset": 1 + (earlier_particles + np.arange(count)) % 2,
        "rlnClassNumber": 1 + specimen.map_indices.cpu().numpy(),
        "cryogemWhole": specimen.is_whole.cpu().numpy().astype(int)})


def extract_boxes(micrograph: Float[Tensor, "y x"], specimen: Specimen, box: int) -> Float[Tensor, "m box box"]:
    """Extract the whole particles as RELION does: protein bright, background ring with mean 0 and deviation 1.

    Parameters
    ----------
    micrograph
        Protein dark.
    specimen
        Its particles; those cut by the border are left out.
    box
        Box size, px.
    """
    boxes = cut_boxes(micrograph, specimen, box)
    return torch.from_numpy(normalised_particles(boxes.cpu().numpy())).to(boxes.device)


def cut_boxes(image: Float[Tensor, "y x"], specimen: Specimen, box: int) -> Float[Tensor, "m box box"]:
    """Cut the boxes of the whole particles from an image; the values do not change.

    Parameters
    ----------
    image
        Any image of the specimen's micrograph.
    specimen
        Its particles; those cut by the border are left out.
    box
        Box size, px.
    """
    corners = specimen.centres[specimen.is_whole].floor().long() - box // 2
    if not len(corners):
        return image.new_zeros(0, box, box)
    return torch.stack([image[y:y + box, x:x + box] for y, x in corners.tolist()])


def _variation(specimen: Specimen) -> dict[str, NDArray[np.float64]]:
    """Columns for the variation between the particles; none if they are alike."""
    variation = specimen.variation
    if variation is None:
        return {}
    values = (specimen.optics.b_factor_angstrom2 + variation.extra_b_factors, variation.contrasts, variation.remaining,
              *variation.cut_normals.T)
    return {name: value.cpu().numpy() for name, value in zip(VARIATION, values, strict=True)}


def _ctf(optics: Optics) -> dict[str, float]:
    return {"rlnDefocusU": optics.defocus_u_angstrom, "rlnDefocusV": optics.defocus_v_angstrom,
            "rlnDefocusAngle": optics.defocus_angle_degrees, "rlnPhaseShift": optics.phase_shift_degrees,
            "rlnCtfBfactor": optics.b_factor_angstrom2}
