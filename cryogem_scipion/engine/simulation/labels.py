# SPDX-License-Identifier: GPL-3.0-or-later
"""Labels of specimens as STAR rows, and the particles' boxes."""
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from cryogem_scipion.engine.io.particle_boxes import normalised_particles
from cryogem_scipion.engine.simulation.ctf import Optics
from cryogem_scipion.engine.simulation.microscope import Microscope, Specimen
from cryogem_scipion.engine.simulation.projection import euler_angles

__all__ = ["cut_boxes", "extract_boxes", "micrograph_row", "optics_table", "particle_rows"]


def optics_table(run: Microscope, images: bool) -> pd.DataFrame:
    """The one row of RELION's optics table; with ``images``, also what it says of particle images."""
    s = run.settings
    row: dict[str, object] = {
        "rlnOpticsGroup": 1, "rlnOpticsGroupName": "opticsGroup1", "rlnVoltage": s.voltage_kv,
        "rlnSphericalAberration": s.cs_mm, "rlnAmplitudeContrast": s.amplitude_contrast,
        "rlnMicrographPixelSize": run.pixel_size, "rlnMicrographOriginalPixelSize": run.pixel_size}
    if images:
        row |= {"rlnImagePixelSize": run.pixel_size, "rlnImageSize": run.box_size, "rlnImageDimensionality": 2}
    return pd.DataFrame([row])


def micrograph_row(name: str, mask: str, specimen: Specimen) -> dict[str, object]:
    """One row of micrographs.star."""
    return {"rlnMicrographName": name, "rlnOpticsGroup": 1, **_ctf(specimen.optics), "cryogemMask": mask}


def particle_rows(name: str, specimen: Specimen, pixel_size: float, first: int) -> pd.DataFrame:
    """Rows of particles.star for the particles of one micrograph.

    RELION floors coordinates when it cuts boxes, so the coordinate is the floor and the fraction stands in
    the origin: true centre = coordinate - origin / pixel size.

    Parameters
    ----------
    name
        The micrograph, relative to the folder.
    first
        How many particles the run had before; the random halves alternate over the whole run.
    """
    centres = specimen.centres.double().cpu().numpy()
    whole_pixels = np.floor(centres)
    origins = (whole_pixels - centres) * pixel_size
    rot, tilt, psi = euler_angles(specimen.rotations).double().cpu().numpy().T
    count = len(centres)
    heights = specimen.heights.double().cpu().numpy()
    optics = _ctf(specimen.optics)
    # A particle nearer to the electron source is less underfocused.
    defocus = {name: optics[name] - heights for name in ("rlnDefocusU", "rlnDefocusV")}
    return pd.DataFrame({
        "rlnMicrographName": name, "rlnOpticsGroup": np.ones(count, int),
        "rlnCoordinateX": whole_pixels[:, 1], "rlnCoordinateY": whole_pixels[:, 0],
        "rlnAngleRot": rot, "rlnAngleTilt": tilt, "rlnAnglePsi": psi,
        "rlnOriginXAngst": origins[:, 1], "rlnOriginYAngst": origins[:, 0], **optics, **defocus,
        "rlnRandomSubset": 1 + (first + np.arange(count)) % 2,
        "rlnClassNumber": 1 + specimen.sources.cpu().numpy(),
        "cryogemWhole": specimen.whole.cpu().numpy().astype(int)})


def extract_boxes(micrograph: Float[Tensor, "y x"], specimen: Specimen, box: int) -> Float[Tensor, "m box box"]:
    """Cut the whole particles: protein bright, background ring mean 0 and deviation 1, as RELION prepares them."""
    boxes = cut_boxes(micrograph, specimen, box)
    return torch.from_numpy(normalised_particles(boxes.cpu().numpy())).to(boxes.device)


def cut_boxes(image: Float[Tensor, "y x"], specimen: Specimen, box: int) -> Float[Tensor, "m box box"]:
    """Cut the whole particles from any image of the field, values as they are."""
    corners = specimen.centres[specimen.whole].floor().long() - box // 2
    if not len(corners):
        return image.new_zeros(0, box, box)
    return torch.stack([image[y:y + box, x:x + box] for y, x in corners.tolist()])


def _ctf(optics: Optics) -> dict[str, float]:
    return {"rlnDefocusU": optics.defocus_u_angstrom, "rlnDefocusV": optics.defocus_v_angstrom,
            "rlnDefocusAngle": optics.defocus_angle_degrees, "rlnPhaseShift": optics.phase_shift_degrees,
            "rlnCtfBfactor": optics.b_factor_angstrom2}
