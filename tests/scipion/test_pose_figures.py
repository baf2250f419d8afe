# SPDX-License-Identifier: GPL-3.0-or-later
"""Viewers and wizard of the pose estimator, on tables and images without a run of the engine."""
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import PARTICLES, write_table
from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.viewers import pose_figures
from cryogem_scipion.wizards.figures import draw_particle_circle
from cryogem_scipion.wizards.previews import particle_images
from tests.scipion.test_pose_tables import BOX, PIXEL_SIZE, particles

HEAD = "step,steps,loss,held_out_loss,held_out_error_degrees,learning_rate,steps_per_second\n"


@pytest.fixture
def figure():
    figure = plt.figure(figsize=(10, 6))
    yield figure
    plt.close(figure)


def test_the_learning_curve_follows_the_run(tmp_path, figure):
    table = tmp_path / "losses.csv"
    table.write_text(HEAD)
    with pytest.raises(DataError, match=r"no step so far.*wait for the first steps"):
        pose_figures.draw_learning_curve(figure, tmp_path)
    table.write_text(HEAD + "".join(f"{step},600,{5 - step / 10},,,0.1,2\n" for step in range(1, 11)))
    pose_figures.draw_learning_curve(figure, tmp_path)
    above, below = figure.axes
    assert figure.get_suptitle() == "step 10 of 600, 2 steps a second, 5 min left"
    assert len(below.lines[0].get_xdata()) == 0
    with table.open("a") as file:
        file.write("11,600,3.5,3.6,20.5,0.1,2\n12,600,3.4,3.4,9.75,0.1,2\n13,600,3.3,3.5,9,0.1,2\n14,60")
    [(refresh, *_)] = figure.cryogem_timer.callbacks
    refresh()
    assert np.max(above.lines[0].get_xdata()) == 13  # the row that is being written is left out
    assert list(above.lines[1].get_ydata()) == [3.6, 3.4, 3.5]
    assert list(below.lines[0].get_ydata()) == [20.5, 9.75, 9]
    # The lowest held-out loss decides, not the lowest error.
    assert (list(above.lines[2].get_xdata()), list(above.lines[2].get_ydata())) == ([12], [3.4])
    assert (list(below.lines[1].get_xdata()), list(below.lines[1].get_ydata())) == ([12], [9.75])
    assert figure.get_suptitle().endswith("best state: step 12, 9.8°")


@pytest.fixture
def assigned(tmp_path):
    """A folder of assigned poses: 70 particles, each image a constant plus noise that tells which it is."""
    images = np.random.default_rng(3).normal(0, 0.01, (70, 8, 8)) + np.arange(70)[:, None, None]
    write_mrc(tmp_path / "stack.mrcs", images, 4.0, stack=True)
    confidence = np.random.default_rng(4).permutation(70) / 100
    rows = pd.DataFrame({"rlnImageName": [f"{n + 1:06d}@{tmp_path / 'stack.mrcs'}" for n in range(70)],
                         "rlnOpticsGroup": 1, "rlnAngleRot": np.linspace(-180, 180, 70), "rlnAngleTilt": 50.0,
                         "rlnAnglePsi": 10.0, "rlnMaxValueProbDistribution": confidence})
    write_table(tmp_path / PARTICLES, "particles", pd.DataFrame([{"rlnOpticsGroup": 1}]), rows)
    return tmp_path, confidence


def test_particles_are_shown_from_the_highest_confidence(assigned, figure):
    folder, confidence = assigned
    pose_figures.draw_particle_gallery(figure, folder)
    order = np.argsort(-confidence)

    def shown():
        return [round(float(axis.images[0].get_array().mean())) for axis in figure.axes if axis.images]

    assert shown() == list(order[:32])
    figure.cryogem_pages.go(2)
    assert shown() == list(order[64:])  # the last page has six images
    assert figure.get_suptitle().startswith("particles 65 to 70 of 70")


def test_orientations_of_the_confident_particles(assigned, figure):
    folder, confidence = assigned
    pose_figures.draw_assigned_orientations(figure, folder, 0.5)
    assert figure.get_suptitle() == f"{(confidence >= 0.5).sum()} particles"
    with pytest.raises(DataError, match=r"no particle has a confidence of 1\.5 or more"):
        pose_figures.draw_assigned_orientations(figure, folder, 1.5)
    with pytest.raises(DataError, match="is written when the poses have been assigned"):
        pose_figures.draw_particle_gallery(figure, folder / "nothing")


def test_the_circle_has_the_diameter_on_particles_and_on_their_average(tmp_path, figure):
    with pytest.raises(DataError, match="first choose particles"):
        particle_images(None)
    found = particle_images(particles(tmp_path))
    assert (found.averaged, found.pixel_size, found.box_angstrom) == (5, PIXEL_SIZE, PIXEL_SIZE * BOX)
    draw_particle_circle(figure, found, 20.0)
    assert len(figure.axes) == 4
    for axis in figure.axes:
        [circle] = axis.patches
        assert circle.radius == 10.0
        assert np.ptp(axis.get_xlim()) == PIXEL_SIZE * BOX  # both in Å
    assert "average of 5 particles" in figure.axes[-1].get_title()
