# SPDX-License-Identifier: GPL-3.0-or-later
"""Maps and atomic models of a simulation, on one density scale."""
import math
from pathlib import Path

import pytest
import torch

from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.settings import SimulateSettings, parse
from cryogem_scipion.engine.simulation.contrast import measure_contrast
from cryogem_scipion.engine.simulation.maps import is_atomic_model, read_volumes
from cryogem_scipion.engine.simulation.microscope import prepare_microscope
from cryogem_scipion.engine.simulation.phantom import phantom

ATOM = "ATOM  {number:5d}  CA  ALA A{number:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00 20.00           C\n"


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """A ball of carbon atoms, 80 Å across, as dense as protein."""
    path = tmp_path_factory.mktemp("models") / "ball.pdb"
    draw = torch.rand(9000, 3, generator=torch.Generator().manual_seed(0)) * 80 - 40
    ball = draw[draw.norm(dim=1) < 40]
    path.write_text("".join(ATOM.format(number=number % 9999 + 1, x=x, y=y, z=z)
                            for number, (x, y, z) in enumerate(ball.tolist())) + "END\n")
    return path


@pytest.fixture(scope="module")
def map_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("maps") / "phantom.mrc"
    write_mrc(path, phantom(40, 4.0, 110.0).density.numpy(), 4.0)
    return path


def settings(*volume, **changes):
    return parse(SimulateSettings, {"out": "unused", "volume": [str(path) for path in volume],
                                    "micrograph_size": (300, 300), "particles_mean": 9, **changes})


@pytest.mark.parametrize(("name", "expected"), [("a.pdb", True), ("8zpm.cif.gz", True), ("a.ENT", True),
                                                ("a.mrc", False), ("a.map.gz", False), ("cif", False)])
def test_atomic_models_are_recognised_by_their_suffix(name, expected):
    assert is_atomic_model(Path(name)) == expected


def test_an_atomic_model_gives_projections_of_its_size(model_file):
    run = prepare_microscope(settings(model_file, pixel_size=4.0))
    assert run.diameter_angstrom == pytest.approx(80, abs=2 * 4.0 + 6)  # a voxel and the blur on both sides
    specimen = run.draw_specimen(0, 0)
    images = run.project_particles(specimen)
    # The projection of a ball has the area π r²; nearly all of it is above a tenth of the peak.
    area = float((images > 0.1 * images.amax((1, 2), keepdim=True)).sum((1, 2)).double().mean()) * 16
    assert area == pytest.approx(math.pi * 40**2, rel=0.15)
    assert measure_contrast(run, 0).scale > 0


def test_an_atomic_model_alone_needs_a_pixel_size(model_file):
    with pytest.raises(SettingsError, match=r"ball\.pdb is an atomic model and has no pixel size; set pixel_size"):
        prepare_microscope(settings(model_file))


def test_a_coarser_resolution_blurs_the_projections(model_file):
    sharp, blurred = (prepare_microscope(settings(model_file, pixel_size=3.0, resolution_angstrom=limit))
                      for limit in (None, 30.0))
    specimen = sharp.draw_specimen(0, 0)
    fine = sharp.project_particles(specimen)
    power = torch.fft.rfft2(fine).abs()[..., 20:].norm()
    assert float(torch.fft.rfft2(blurred.project_particles(specimen)).abs()[..., 20:].norm()) < 0.2 * float(power)


def test_maps_and_atomic_models_of_any_units_get_one_density_scale(model_file, map_file, tmp_path):
    strong = tmp_path / "strong.mrc"
    write_mrc(strong, 1000 * phantom(40, 4.0, 110.0).density.numpy(), 4.0)
    (first, second, third), pixel_size = read_volumes(settings(map_file, strong, model_file))
    assert pixel_size == 4.0
    assert torch.allclose(first.density, second.density, rtol=1e-4, atol=1e-4)
    assert 0.3 < float(third.density.max() / first.density.max()) < 3
