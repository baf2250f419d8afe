# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of the virtual specimen: labels and images agree with the settings."""
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from cryogem_scipion.engine.errors import DataError, SettingsError
from cryogem_scipion.engine.io.dataset import write_table
from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.settings import SimulateSettings, parse
from cryogem_scipion.engine.simulation.ctf import at_height
from cryogem_scipion.engine.simulation.labels import particle_rows
from cryogem_scipion.engine.simulation.microscope import prepare_microscope
from cryogem_scipion.engine.simulation.phantom import phantom
from cryogem_scipion.engine.simulation.poses import view_directions
from cryogem_scipion.engine.simulation.projection import euler_angles
from cryogem_scipion.engine.simulation.specimen import draw_map_indices, seeded_generator


@pytest.fixture(scope="module")
def volume_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("maps") / "phantom.mrc"
    write_mrc(path, phantom(36, 5.0, 120.0).density.numpy(), 5.0)
    return path


@pytest.fixture
def values(volume_file):
    return {"out": "unused", "volume": (str(volume_file),), "micrograph_size": (320, 400), "particles_mean": 30,
            "particles_sigma": 0, "particle_distance": 100.0}


def rows_of(run, count=4):
    specimens = [run.draw_specimen(0, index) for index in range(count)]
    return specimens, pd.concat([particle_rows(f"{index}.mrc", specimen, run.pixel_size, 0)
                                 for index, specimen in enumerate(specimens)])


def views(rows):
    return view_directions(torch.tensor(rows[["rlnAngleRot", "rlnAngleTilt"]].to_numpy()))


def angles_between(directions, view):
    return torch.rad2deg(torch.acos((directions @ view).clamp(-1, 1)))


def test_maps_are_drawn_in_their_proportions():
    counts = draw_map_indices((1.0, 0.0, 3.0), 4000, seeded_generator(1)).bincount(minlength=3)
    assert counts[1] == 0
    # Binomial with standard deviation 27 around 1000; the limit is four standard deviations.
    assert abs(int(counts[0]) - 1000) < 110


def test_each_particle_is_a_projection_of_its_own_map(values, volume_file, tmp_path):
    small = tmp_path / "small.mrc"
    write_mrc(small, phantom(30, 5.0, 60.0).density.numpy(), 5.0)
    run = prepare_microscope(parse(SimulateSettings, values | {
        "volume": (str(volume_file), str(small)), "volume_proportions": (1, 2)}))
    specimen = run.draw_specimen(0, 0)
    images = run.project_particles(specimen)
    extent = (images > 0.05 * images.amax((1, 2), keepdim=True)).sum((1, 2)).float()
    assert set(specimen.map_indices.tolist()) == {0, 1}
    assert extent[specimen.map_indices == 0].min() > extent[specimen.map_indices == 1].max()
    numbers = [1 + index for index in specimen.map_indices.tolist()]
    assert list(particle_rows("a", specimen, 5.0, 0)["rlnClassNumber"]) == numbers


def test_preferred_views_lie_in_their_cones(values):
    run = prepare_microscope(parse(SimulateSettings, values | {
        "preferred_views": ("0:0", "40:90:3"), "preferred_cone_degrees": 12, "preferred_uniform": 0}))
    _, rows = rows_of(run)
    top, side = (angles_between(views(rows), view) for view in view_directions(torch.tensor([[0., 0.], [40., 90.]])))
    assert float(torch.minimum(top, side).max()) <= 12.001
    # 120 particles, three quarters in the second cone: four binomial standard deviations of 4.7.
    assert abs(int((side < 13).sum()) - 90) < 20
    assert rows["rlnAnglePsi"].std() > 60  # in-plane angles are random; uniform ones have 104


def test_uniform_views_are_mixed_in_with_their_share(values):
    run = prepare_microscope(parse(SimulateSettings, values | {
        "preferred_views": ("0:0",), "preferred_cone_degrees": 1, "preferred_uniform": 0.5}))
    _, rows = rows_of(run)
    assert abs(int((rows["rlnAngleTilt"] > 1.01).sum()) - 60) < 24  # four binomial standard deviations of 5.5


def test_measured_orientations_give_the_views(values, tmp_path):
    path = tmp_path / "particles.star"
    angles = pd.DataFrame({"rlnAngleRot": [10.0, 200.0], "rlnAngleTilt": [30.0, 100.0], "rlnAnglePsi": [0.0, 5.0]})
    write_table(path, "particles", pd.DataFrame([{"rlnOpticsGroup": 1}]), angles)
    run = prepare_microscope(parse(SimulateSettings, values | {
        "orientations": str(path), "orientation_spread_degrees": 4}))
    _, rows = rows_of(run)
    first, second = (angles_between(views(rows), view) for view in views(angles))
    assert float(torch.minimum(first, second).max()) <= 4.001
    assert 30 < int((first < 5).sum()) < 90
    assert rows["rlnAnglePsi"].std() > 60
    assert rows["rlnAngleTilt"].nunique() == len(rows)


@pytest.mark.parametrize(("columns", "message"), [
    ({"rlnAngleRot": [1.0]}, "lacks rlnAngleTilt"),
    ({"rlnAngleRot": [1.0], "rlnAngleTilt": ["steep"], "rlnAnglePsi": [2.0]}, "not a number"),
    ({"rlnAngleRot": [1.0, 2.0], "rlnAngleTilt": [3.0, np.nan], "rlnAnglePsi": [2.0, 2.0]}, "row 2 lacks a value"),
    ({"rlnAngleRot": [], "rlnAngleTilt": [], "rlnAnglePsi": []}, "no rows"),
])
def test_unusable_orientations_are_refused(values, tmp_path, columns, message):
    path = tmp_path / "particles.star"
    write_table(path, "particles", pd.DataFrame([{"rlnOpticsGroup": 1}]), pd.DataFrame(columns))
    with pytest.raises(DataError, match=message):
        prepare_microscope(parse(SimulateSettings, values | {"orientations": str(path)}))


@pytest.mark.parametrize(("changes", "message"), [
    ({"symmetry": "C0"}, "give C1, C2"),
    ({"symmetry": "H5"}, "symmetry: give C1.*found 'H5'"),
    ({"preferred_views": ("0",)}, "preferred view '0' cannot be read; give rot:tilt"),
    ({"preferred_views": ("0:90:-1",)}, "weight above 0"),
    ({"volume_proportions": (1, 2)}, "do not fit 1 maps"),
    ({"volume_proportions": (0,)}, "not all 0"),
    ({"orientations": "a.star", "preferred_views": ("0:0",)}, "leave one of them empty"),
])
def test_contradictory_settings_are_refused(values, changes, message):
    with pytest.raises(SettingsError, match=message):
        parse(SimulateSettings, values | changes)


@pytest.mark.parametrize(("symmetry", "rot", "tilt"), [("c7", 180 / 7, 180), ("D2", 90, 90)])
def test_labels_lie_in_the_asymmetric_unit(values, symmetry, rot, tilt):
    _, rows = rows_of(prepare_microscope(parse(SimulateSettings, values | {"symmetry": symmetry})))
    assert rows["rlnAngleRot"].abs().max() <= rot + 1e-6
    assert rows["rlnAngleTilt"].max() <= tilt + 1e-6


@pytest.mark.parametrize("axis", [0.0, 35.0, 90.0])
def test_defocus_follows_the_tilt_of_the_ice(values, axis):
    run = prepare_microscope(parse(SimulateSettings, values | {"ice_tilt_degrees": 25, "ice_tilt_axis_degrees": axis}))
    (specimen, *_), _ = rows_of(run)
    rows = particle_rows("a", specimen, run.pixel_size, 0)
    y, x = (specimen.centres - torch.tensor([159.5, 199.5])).unbind(1)
    distance = y * math.cos(math.radians(axis)) - x * math.sin(math.radians(axis))
    expected = specimen.optics.defocus_u_angstrom - distance * 5.0 * math.tan(math.radians(25))
    assert np.allclose(rows["rlnDefocusU"], expected)
    assert np.allclose(rows["rlnDefocusU"] - rows["rlnDefocusV"],
                       specimen.optics.defocus_u_angstrom - specimen.optics.defocus_v_angstrom)


def test_particles_tilt_with_the_ice(values):
    """Particles seen from the top in flat ice are seen at the tilt angle in tilted ice, tilted about the same axis."""
    run = prepare_microscope(parse(SimulateSettings, values | {
        "ice_tilt_degrees": 25, "ice_tilt_axis_degrees": 90, "preferred_views": ("0:0",), "preferred_cone_degrees": 0,
        "preferred_uniform": 0}))
    specimen, *_ = rows_of(run)[0]
    assert torch.allclose(euler_angles(specimen.rotations)[:, 1], torch.tensor(25.0).double())
    # The z axis of the map is the normal of the ice. Its direction in the image is that in which the heights decrease.
    leaning = specimen.rotations[:, :2, 2]
    normal = torch.tensor([math.sin(math.radians(25)), 0.0]).double()
    assert torch.allclose(leaning, normal.expand_as(leaning), atol=1e-6)
    x = specimen.centres[:, 1]
    assert np.polyfit(x, specimen.heights, 1)[0] < 0


def test_heights_fill_the_ice(values):
    run = prepare_microscope(parse(SimulateSettings, values | {"ice_thickness_angstrom": 600}))
    specimens, rows = rows_of(run)
    heights = torch.cat([specimen.heights for specimen in specimens])
    assert float(heights.abs().max()) <= 300
    # With 120 particles, the estimate has a standard deviation of 5 %.
    assert float(heights.std()) == pytest.approx(600 / math.sqrt(12), rel=0.15)
    assert rows["rlnDefocusU"].nunique() == len(rows)


def test_each_particle_is_imaged_at_its_own_defocus(values):
    """The image equals the sum of micrographs with one particle each, at the defocus of the particle's label."""
    run = prepare_microscope(parse(SimulateSettings, values | {
        "ice_thickness_angstrom": 3000, "ice_tilt_degrees": 40, "particles_mean": 9}))
    specimen = run.draw_specimen(0, 0)
    assert not specimen.same_optics
    together = run.form_image(specimen).signal
    alone = torch.zeros_like(together)
    for number, height in enumerate(specimen.heights.tolist()):
        chosen = torch.arange(len(specimen.heights)) == number
        flat = replace(specimen.subset(chosen), heights=torch.zeros(1), optics=at_height(specimen.optics, height))
        assert flat.same_optics
        alone += run.form_image(flat).signal
    # The two ways pad differently and so sample the CTF at other frequencies; the ripples outside are below 0.5 %.
    assert float((together - alone).norm() / alone.norm()) < 5e-3
    same_height = run.form_image(replace(specimen, heights=torch.zeros_like(specimen.heights))).signal
    assert float((together - same_height).norm() / alone.norm()) > 10 * 5e-3


@pytest.mark.parametrize("changes", [{}, {"ice_thickness_angstrom": 1.0}])
def test_ripples_do_not_wrap_around_the_border(values, changes):
    run = prepare_microscope(parse(SimulateSettings, values | {"defocus_min": 30000, "defocus_max": 30000} | changes))
    specimen = run.draw_specimen(0, 0).subset(torch.arange(30) == 0)
    specimen = replace(specimen, centres=torch.tensor([[160.25, 2.5]]).double())
    signal = run.form_image(specimen).signal
    assert float(signal[:, 200:].abs().max()) < 2e-3 * float(signal.abs().max())


def test_clusters_and_overlap_set_the_distances(values):
    def nearest(**changes):
        run = prepare_microscope(parse(SimulateSettings, values | {"particles_mean": 12} | changes))
        distances_of_micrographs = []
        for index in range(5):
            centres = run.draw_specimen(0, index).centres * run.pixel_size
            distances = torch.cdist(centres, centres) + 1e9 * torch.eye(len(centres))
            distances_of_micrographs.append(distances.min(1).values)
        return run, torch.cat(distances_of_micrographs)

    _, unclustered = nearest()
    _, clustered = nearest(clusters=1.0)
    assert float(unclustered.min()) >= 100
    assert float(clustered.min()) >= 100
    assert float(clustered.median()) < 130 < float(unclustered.median())  # clustered: within 1.3 particle distances
    run, overlapping = nearest(particle_distance=None, overlap=0.4, particles_mean=200)
    assert run.particle_distance == pytest.approx(0.6 * run.diameter_angstrom)
    assert run.particle_distance <= float(overlapping.min()) < 0.7 * run.diameter_angstrom


def test_a_phase_plate_gives_contrast_at_little_defocus(values):
    """At a small defocus, a phase shift of 90° gives contrast at low frequencies."""
    near = values | {"defocus_min": 500, "defocus_max": 500, "astigmatism_angstrom": 0, "amplitude_contrast": 0.07}
    depth = []
    for shift in (0.0, 90.0):
        run = prepare_microscope(parse(SimulateSettings, near | {"phase_shift_degrees": shift}))
        micrograph = run.form_image(run.draw_specimen(0, 0))
        depth.append(float(micrograph.signal[micrograph.mask].mean() - micrograph.signal[~micrograph.mask].mean()))
        rows = particle_rows("a", micrograph.specimen, 5.0, 0)
        assert (rows["rlnPhaseShift"] == shift).all()
    # The ratio is sin(90° + asin 0.07) / 0.07 at zero frequency, and smaller at the frequencies of the particle.
    assert depth[1] > 5 * depth[0] > 0


def test_soft_masks_agree_with_hard_ones(values):
    hard, soft = (prepare_microscope(parse(SimulateSettings, values | {"soft_mask": kind})) for kind in (False, True))
    specimen = hard.draw_specimen(0, 0)
    hard_mask, soft_mask = hard.form_image(specimen).mask, soft.form_image(specimen).mask
    assert soft_mask.dtype == torch.float32
    assert 0 <= float(soft_mask.min()) <= float(soft_mask.max()) <= 1
    assert torch.equal(soft_mask > 0.5, hard_mask)
    assert float(((soft_mask > 0.01) & (soft_mask < 0.99)).float().mean()) > 0.005


def test_uniform_views_have_no_preference(values):
    _, rows = rows_of(prepare_microscope(parse(SimulateSettings, values)), 8)
    # The mean of n random directions has a length of about 1 / sqrt(n).
    assert float(views(rows).mean(0).norm()) < 4 / math.sqrt(len(rows))
