# SPDX-License-Identifier: GPL-3.0-or-later
"""What simulate and generate have in common: outputs and words about a labelled folder."""
from enum import Enum
from pathlib import Path
from typing import Any

from pwem.objects import SetOfCoordinates, SetOfCTF, SetOfMicrographs, SetOfParticles

from cryogem_scipion.engine.io.dataset import EXTRACTED, Manifest, read_manifest
from cryogem_scipion.protocols.outputs import coordinates_output, ctf_output, micrographs_output, particles_output

__all__ = ["LabelledOutputs", "define_labelled_outputs", "labelled_sentences"]


class LabelledOutputs(Enum):
    """Outputs of simulate and generate; particles only when they are extracted."""

    outputMicrographs = SetOfMicrographs
    outputCoordinates = SetOfCoordinates
    outputCTF = SetOfCTF
    outputParticles = SetOfParticles


def define_labelled_outputs(protocol: Any, folder: Path, inputs: list[Any]) -> None:
    """Define the outputs of a labelled folder, and where they come from.

    Parameters
    ----------
    protocol
        The one that made the folder.
    folder
        Relative to the project.
    inputs
        Pointers; those that point nowhere are passed over.
    """
    manifest = read_manifest(folder)
    micrographs = micrographs_output(protocol, folder, manifest)
    protocol._defineOutputs(**{LabelledOutputs.outputMicrographs.name: micrographs})
    ctfs = ctf_output(protocol, folder, micrographs)
    outputs = {LabelledOutputs.outputCTF.name: ctfs}
    if manifest.whole_particles:
        outputs[LabelledOutputs.outputCoordinates.name] = coordinates_output(protocol, folder, manifest, micrographs)
        if (folder / EXTRACTED).is_file():
            outputs[LabelledOutputs.outputParticles.name] = particles_output(protocol, folder, manifest, micrographs)
    protocol._defineOutputs(**outputs)
    protocol._defineCtfRelation(micrographs, ctfs)
    for pointer in inputs:
        if pointer.get() is not None:
            for output in (micrographs, *outputs.values()):
                protocol._defineSourceRelation(pointer, output)


def labelled_sentences(manifest: Manifest, size: Any, what: str) -> list[str]:
    """Return the content of a labelled folder in words.

    Parameters
    ----------
    manifest
        Of the folder.
    size
        Micrograph size (y, x) in pixels, if known.
    what
        ``simulated`` or ``generated``.
    """
    pixels = f" of {size[0]} x {size[1]} px (y x)" if size else ""
    words = [f"{manifest.micrographs} micrographs{pixels} at {manifest.pixel_size:.3g} Å/px were {what}, "
             f"with {manifest.particles} particles, {manifest.whole_particles} of them whole."]
    if manifest.box_size:
        diameter = manifest.particle_diameter_angstrom
        words.append(f"The box is {manifest.box_size} px"
                     + (f", the particle's diameter {diameter:.0f} Å." if diameter else "."))
    optics = manifest.simulation or {}
    if optics:
        defocus = "of measured CTFs" if optics.get("ctfs") else (
            f"of {optics['defocus_min'] / 1e4:.2f} to {optics['defocus_max'] / 1e4:.2f} µm")
        words.append(f"The microscope has {optics['voltage_kv']:g} kV, a spherical aberration of {optics['cs_mm']:g} "
                     f"mm and a defocus {defocus}.")
    if manifest.contrast:
        words.append(f"Signal-to-noise ratio {manifest.contrast.snr:.3g}, noise of the background "
                     f"{manifest.contrast.background_deviation:.3g} of its mean.")
    return words
