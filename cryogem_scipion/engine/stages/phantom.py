# SPDX-License-Identifier: GPL-3.0-or-later
"""``cryogem phantom``: makes the map of an artificial protein, for a first try and for tests."""
import logging

from cryogem_scipion.engine.compute.threads import one_thread
from cryogem_scipion.engine.io.dataset import Manifest, replacing, write_manifest
from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.runs.folder import open_run_folder, provenance
from cryogem_scipion.engine.settings import PhantomSettings
from cryogem_scipion.engine.simulation.phantom import phantom
from cryogem_scipion.engine.simulation.protein_shell import protein_shell

__all__ = ["run"]

log = logging.getLogger("cryogem")


@one_thread()
def run(settings: PhantomSettings) -> Manifest:
    """Write ``phantom.mrc``; the same settings give the same map."""
    make = {"asymmetric": phantom, "shell": protein_shell}[settings.shape]
    volume = make(settings.box, settings.pixel_size, settings.diameter_angstrom)
    out = open_run_folder(settings)
    with replacing(out / "phantom.mrc") as path:
        write_mrc(path, volume.density.numpy(), volume.pixel_size)
    manifest = Manifest(stage="phantom", **provenance(),
                        settings=settings.model_dump(mode="json"), seed=settings.seed, pixel_size=volume.pixel_size,
                        micrographs=0, particle_diameter_angstrom=settings.diameter_angstrom)
    write_manifest(out, manifest)
    log.info("wrote %s", out / "phantom.mrc")
    return manifest
