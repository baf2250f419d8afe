# SPDX-License-Identifier: GPL-3.0-or-later
"""Outputs and summary of a labelled dataset folder, for *simulate micrographs* and *generate dataset*."""
from enum import Enum
from pathlib import Path
from typing import Any

from pwem.objects import SetOfCoordinates, SetOfCTF, SetOfMicrographs, SetOfParticles

from cryogem_scipion.engine.io.dataset import EXTRACTED, Manifest, read_manifest
from cryogem_scipion.protocols.outputs import coordinates_output, ctf_output, micrographs_output, particles_output

__all__ = ["LabelledOutputs", "define_labelled_outputs", "labelled_summary"]


class LabelledOutputs(Enum):
    """Outputs of simulate and generate; ``outputParticles`` only when particles are extracted."""

    outputMicrographs = SetOfMicrographs
    outputCoordinates = SetOfCoordinates
    outputCTF = SetOfCTF
    outputParticles = SetOfParticles


def define_labelled_outputs(protocol: Any, folder: Path, inputs: list[Any]) -> None:
    """Define the outputs of a labelled dataset folder, and their relations to the inputs.

    Parameters
    ----------
    protocol
        The protocol that made the folder.
    folder
        The dataset folder, relative to the project.
    inputs
        Pointers to the protocol's inputs; empty pointers are ignored.
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


def labelled_summary(manifest: Manifest, size: Any, verb: str) -> list[str]:
    """Return sentences about the content of a labelled dataset folder.

    Parameters
    ----------
    manifest
        The folder's manifest.
    size
        Micrograph size (y, x) in pixels, if known.
    verb
        ``simulated`` or ``generated``.
    """
    pixels = f" of {size[0]} x {size[1]} px (y x)" if size else ""
    sentences = [f"{manifest.micrographs} micrographs{pixels} at {manifest.pixel_size:.3g} Å/px were {verb}, "
                 f"with {manifest.particles} particles, {manifest.whole_particles} of them whole."]
    if manifest.box_size:
        diameter = manifest.particle_diameter_angstrom
        sentences.append(f"The box size is {manifest.box_size} px"
                         + (f", and the particle's diameter is {diameter:.0f} Å." if diameter else "."))
    optics = manifest.simulation or {}
    if optics:
        defocus = "that of measured CTFs" if optics.get("ctfs") else (
            f"{optics['defocus_min'] / 1e4:.2f} to {optics['defocus_max'] / 1e4:.2f} µm")
        sentences.append(f"The voltage is {optics['voltage_kv']:g} kV, the spherical aberration {optics['cs_mm']:g} "
                         f"mm, and the defocus {defocus}.")
    if manifest.contrast:
        sentences.append(f"The signal-to-noise ratio is {manifest.contrast.snr:.3g}. The standard deviation of the "
                         f"background is {manifest.contrast.background_deviation:.3g} of its mean.")
    return sentences
