# SPDX-License-Identifier: GPL-3.0-or-later
"""The virtual microscope: labels, contrast and images belong together; same seed, same image."""
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from cryogem_scipion.engine.errors import CryogemError, DataError
from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.settings import SimulateSettings
from cryogem_scipion.engine.simulation.contrast import measure_contrast
from cryogem_scipion.engine.simulation.labels import extract_boxes, particle_rows
from cryogem_scipion.engine.simulation.microscope import prepare_microscope, seeded_generator
from cryogem_scipion.engine.simulation.phantom import phantom
from cryogem_scipion.engine.simulation.projection import project, rotation_matrices


@pytest.fixture(scope="module")
def volume_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("maps") / "phantom.mrc"
    volume = phantom(48, 4.0, 120.0)
    write_mrc(path, volume.density.numpy(), volume.pixel_size)
    return path


@pytest.fixture
def settings(volume_file):
    return SimulateSettings(out="unused", volume=(volume_file,), micrograph_size=(260, 300), particles_mean=8,
                            particles_sigma=2, b_factor_angstrom2=0, border="cut")


def test_seeds_are_independent_of_each_other():
    draws = [float(torch.rand((), generator=seeded_generator(*parts)))
             for parts in ((0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1))]
    assert len(set(draws)) == 4
    assert float(torch.rand((), generator=seeded_generator(0, "a", 1))) == draws[0]


def test_a_micrograph_does_not_depend_on_what_was_made_before(settings):
    run = prepare_microscope(settings)
    first = run.form_image(run.draw_specimen(3, 5)).signal
    run.form_image(run.draw_specimen(3, 4))
    assert torch.equal(run.form_image(run.draw_specimen(3, 5)).signal, first)
    assert not torch.equal(run.form_image(run.draw_specimen(4, 5)).signal, first)


def test_the_contrast_is_what_the_snr_asks_for(settings):
    run = prepare_microscope(settings.model_copy(update={"snr": 0.3, "background_deviation": 0.06}))
    contrast = measure_contrast(run, 0)
    assert contrast.signal_deviation == pytest.approx(0.3 ** 0.5 * 0.06)
    scaled = replace(run, projection_scale=contrast.scale)
    values = []
    for index in range(6):
        micrograph = scaled.form_image(scaled.draw_specimen(0, index))
        values.append(micrograph.signal[micrograph.mask])
    # Over all particles, also cut ones, and other defoci than the calibrated first ones: the same within a fifth.
    assert float(torch.cat(values).std()) == pytest.approx(contrast.signal_deviation, rel=0.2)


def test_labels_point_at_the_particles(settings):
    """Projections made from the labels alone, set at the labelled true centres, give the image's own particles."""
    run = prepare_microscope(settings.model_copy(update={"border": "inside"}))
    specimen = run.draw_specimen(1, 0)
    rows = particle_rows("a.mrc", specimen, run.pixel_size, 0)
    angles = torch.tensor(rows[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(np.float32))
    x = rows["rlnCoordinateX"] - rows["rlnOriginXAngst"] / run.pixel_size
    y = rows["rlnCoordinateY"] - rows["rlnOriginYAngst"] / run.pixel_size
    assert np.allclose(np.stack([y, x], 1), specimen.centres.numpy(), atol=1e-4)
    origins = rows[["rlnOriginYAngst", "rlnOriginXAngst"]].to_numpy(np.float32)
    shifts = torch.from_numpy(-origins / run.pixel_size)
    again = project(run.projectors[0], rotation_matrices(angles), shifts, 48, run.pixel_size)
    drawn = run.project_particles(specimen)
    edge = (drawn.shape[-1] - 48) // 2
    drawn = drawn[:, edge:edge + 48, edge:edge + 48] if edge >= 0 else drawn
    again = again[:, -edge:48 + edge, -edge:48 + edge] if edge < 0 else again
    assert float((again - drawn).norm() / drawn.norm()) < 1e-3  # float32 angles

    micrograph = run.form_image(specimen)
    for cy, cx in zip(rows["rlnCoordinateY"].astype(int), rows["rlnCoordinateX"].astype(int), strict=True):
        assert bool(micrograph.mask[cy - 4:cy + 5, cx - 4:cx + 5].any())


def test_whole_means_that_the_box_fits(settings):
    run = prepare_microscope(settings)
    specimen = run.draw_specimen(2, 0)
    half = run.box_size // 2
    corner = specimen.centres.floor() - half
    fits = ((corner >= 0) & (corner + run.box_size <= torch.tensor([260, 300]))).all(1)
    assert torch.equal(fits, specimen.is_whole)
    boxes = extract_boxes(torch.randn(260, 300), specimen, run.box_size)
    assert boxes.shape == (int(fits.sum()), run.box_size, run.box_size)


def test_extracted_boxes_are_bright_on_a_normalised_ring(settings):
    run = prepare_microscope(settings.model_copy(update={"border": "inside", "particle_distance": 200.0}))
    run = replace(run, projection_scale=measure_contrast(run, 0).scale)
    specimen = run.draw_specimen(0, 0)
    image = 1 - run.form_image(specimen).signal + 0.01 * torch.randn(260, 300, generator=seeded_generator(1))
    boxes = extract_boxes(1000 * image, specimen, run.box_size)
    axis = torch.arange(run.box_size) - run.box_size // 2
    radius = (axis[:, None] ** 2 + axis[None] ** 2).sqrt()
    ring = boxes[:, radius > run.box_size // 2]
    assert torch.allclose(ring.mean(1), torch.zeros(len(boxes)), atol=1e-3)
    assert torch.allclose(ring.std(1), torch.ones(len(boxes)), atol=1e-2)
    assert (boxes[:, radius < 5].mean(1) > 0.2).all()


def test_no_particles_is_no_problem(settings):
    run = prepare_microscope(settings.model_copy(update={"particles_mean": 0, "particles_sigma": 0}))
    assert measure_contrast(run, 0).scale > 0
    micrograph = run.form_image(run.draw_specimen(0, 0))
    assert len(micrograph.specimen.centres) == 0
    assert float(micrograph.signal.abs().max()) == 0
    assert not bool(micrograph.mask.any())


def test_defocus_comes_from_measured_ctfs(settings, tmp_path):
    table = pd.DataFrame({"rlnMicrographName": ["a", "b"], "rlnDefocusU": [11000.0, 22000.0],
                          "rlnDefocusV": [10000.0, 21000.0], "rlnDefocusAngle": [10.0, 20.0]})
    import starfile
    starfile.write({"micrographs": table}, tmp_path / "ctfs.star")
    run = prepare_microscope(settings.model_copy(update={"ctfs": tmp_path / "ctfs.star"}))
    drawn = {run.draw_specimen(0, index).optics.defocus_u_angstrom for index in range(12)}
    assert drawn == {11000.0, 22000.0}
    starfile.write({"micrographs": table.assign(rlnDefocusU="much")}, tmp_path / "ctfs.star")
    with pytest.raises(DataError, match="not a number"):
        prepare_microscope(settings.model_copy(update={"ctfs": tmp_path / "ctfs.star"}))


def test_a_map_larger_than_the_micrograph_is_refused(settings):
    with pytest.raises(CryogemError, match="larger than the micrograph"):
        prepare_microscope(settings.model_copy(update={"micrograph_size": (32, 300)}))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("changes", [{}, {"ice_thickness_angstrom": 500.0, "soft_mask": True}])
def test_a_gpu_makes_the_same_micrograph(settings, changes):
    values = settings.model_copy(update=changes)
    here, there = (prepare_microscope(values, device=torch.device(name)) for name in ("cpu", "cuda"))
    specimen = here.draw_specimen(0, 0)
    expected, found = here.form_image(specimen), there.form_image(there.draw_specimen(0, 0))
    assert found.signal.device.type == "cuda"
    # float32 sums in another order
    assert float((found.signal.cpu() - expected.signal).norm() / expected.signal.norm()) < 1e-4
    assert float((found.mask.cpu().float() - expected.mask.float()).abs().mean()) < 1e-3
