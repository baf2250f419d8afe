# SPDX-License-Identifier: GPL-3.0-or-later
"""``cryogem poses``: how far refined poses are from the true ones."""
import logging

from matplotlib.figure import Figure

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.figures.poses import FIGURE_SIZE, REPORT_NAME, draw_poses
from cryogem_scipion.engine.figures.report_files import save_figure, write_report
from cryogem_scipion.engine.io.dataset import Manifest, write_manifest
from cryogem_scipion.engine.runs.folder import open_run_folder, provenance
from cryogem_scipion.engine.scoring.particles import read_poses
from cryogem_scipion.engine.scoring.poses import compare_poses
from cryogem_scipion.engine.settings import PosesSettings
from cryogem_scipion.engine.simulation.symmetry import symmetry_operators

__all__ = ["run"]

log = logging.getLogger("cryogem")


def run(settings: PosesSettings) -> Manifest:
    """Write poses.json, poses.npz, poses.png and the manifest.

    Raises
    ------
    CryogemError
        Input or settings are unusable; nothing has been written then.
    """
    refined = read_poses(settings.particles, settings.pixel_size)
    truth = read_poses(settings.truth, settings.truth_pixel_size)
    if truth.pixel_size is None:
        raise DataError(f"{settings.truth} does not say the pixel size of its micrographs; give truth_pixel_size")
    operators = symmetry_operators(settings.symmetry).numpy()
    report, arrays = compare_poses(refined, truth, operators, settings.alignment, settings.radius)
    if not arrays:
        raise DataError(f"none of the {len(refined)} particles of {settings.particles} is in {settings.truth} "
                        f"(compared by {report['paired_by']}); give the truth of these particles, or a larger radius")
    report = {"symmetry": settings.symmetry, "alignment": settings.alignment, **report}
    out = open_run_folder(settings)
    write_report(out, REPORT_NAME, report, arrays)
    figure = Figure(figsize=FIGURE_SIZE)
    draw_poses(figure, out)
    save_figure(figure, out / f"{REPORT_NAME}.png")
    medians = {f"{name}_median": report[name]["median"] for name in
               ("angular_error_degrees", "view_error_degrees", "in_plane_error_degrees", "shift_error_angstrom",
                "defocus_error_angstrom") if report[name]}
    warnings = []
    if report["unknown_particles"]:
        warnings.append(f"{report['unknown_particles']} of {len(refined)} refined particles have no true particle "
                        "within the radius; these particles are left out")
    if report["map"]["mirrored"]:
        warnings.append("the refined map has the opposite handedness; the poses are compared after mirroring the map")
    manifest = Manifest(
        stage="poses", **provenance(), settings=settings.model_dump(mode="json"),
        seed=settings.seed, pixel_size=truth.pixel_size, micrographs=0, particles=report["particles"],
        warnings=tuple(warnings), figures=medians)
    write_manifest(out, manifest)
    errors = [f"{name.split('_')[0]} {value:.3g} {'°' if 'degrees' in name else 'Å'}"
              for name, value in medians.items()]
    log.info("%d particles: median errors %s; report in %s", report["particles"], ", ".join(errors), out)
    for warning in manifest.warnings:
        log.warning("warning: %s", warning)
    return manifest
