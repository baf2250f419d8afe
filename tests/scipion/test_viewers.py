# SPDX-License-Identifier: GPL-3.0-or-later
"""What the viewers read and draw: labels in parts, spectra, pages, and windows that follow a run."""
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import PARTICLES, read_table
from cryogem_scipion.engine.io.mrc import write_mrc
from cryogem_scipion.engine.settings import SimulateSettings
from cryogem_scipion.engine.stages.simulate import run as simulate
from tests.scipion.conftest import write_map


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A simulation of three micrographs, the second of them empty."""
    place = tmp_path_factory.mktemp("viewed")
    write_map(place / "map.mrc")
    simulate(SimulateSettings(volume=(place / "map.mrc",), pixel_size=8.0, micrographs=3, micrograph_size=(200, 260),
                              particles_mean=9.0, particles_sigma=2.0, defocus_min=9000,
                              defocus_max=9500, out=place / "set", threads=1))
    table = place / "set" / PARTICLES
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if "mic_000001" not in line))
    return place / "set"


@pytest.fixture
def figure():
    figure = plt.figure(figsize=(8, 5))
    yield figure
    plt.close(figure)


def _press(figure, key):
    from matplotlib.backend_bases import KeyEvent
    figure.canvas.callbacks.process("key_press_event", KeyEvent("key_press_event", figure.canvas, key))


def test_the_rows_of_a_micrograph_are_those_of_the_whole_table(folder):
    from cryogem_scipion.viewers.label_tables import micrograph_particles, particle_columns
    _, whole = read_table(folder / PARTICLES, "particles")
    for name in ("micrographs/mic_000000.mrc", "micrographs/mic_000002.mrc"):
        expected = whole[whole["rlnMicrographName"] == name].reset_index(drop=True)
        assert len(expected) > 2
        pd.testing.assert_frame_equal(micrograph_particles(folder, name), expected, check_dtype=False)
    assert micrograph_particles(folder, "micrographs/mic_000001.mrc").empty
    columns = ["rlnAngleTilt", "rlnMicrographName", "cryogemWhole"]
    pd.testing.assert_frame_equal(particle_columns(folder, columns), whole[columns], check_dtype=False)
    with pytest.raises(DataError, match="lacks rlnBlue; make the set again"):
        particle_columns(folder, ["rlnBlue"])


def test_a_page_reads_its_own_images_only(folder, figure, monkeypatch):
    from cryogem_scipion.viewers import image_display, micrograph_figures
    read = []
    mapped = image_display._mapped
    monkeypatch.setattr(image_display, "_mapped", lambda path: (read.append(path.name), mapped(path))[1])
    micrograph_figures.draw_gallery(figure, folder, first=2)
    assert set(read) == {"mic_000002.mrc"}
    assert "mic_000002.mrc: " in figure.get_suptitle()
    assert "µm" in figure.get_suptitle()
    _press(figure, "left")
    assert set(read) == {"mic_000002.mrc", "mic_000001.mrc"}
    assert "mic_000001.mrc: 0 particles (0 cut)" in figure.get_suptitle()


def test_circles_stand_on_the_true_centres(folder, figure):
    from matplotlib.collections import EllipseCollection

    from cryogem_scipion.viewers import micrograph_figures
    micrograph_figures.draw_gallery(figure, folder)
    [drawn] = [item for item in figure.axes[0].collections if isinstance(item, EllipseCollection)]
    _, rows = read_table(folder / PARTICLES, "particles")
    rows = rows[rows["rlnMicrographName"] == "micrographs/mic_000000.mrc"]
    centres = rows[["rlnCoordinateX", "rlnCoordinateY"]].to_numpy() - rows[
        ["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy() / 8.0
    np.testing.assert_allclose(drawn.get_offsets(), centres)
    assert len({tuple(colour) for colour in drawn.get_edgecolors()}) == rows["cryogemWhole"].nunique()


def test_rings_lie_on_the_dark_rings_of_a_clean_micrograph(tmp_path, figure):
    """An image of white noise through a known CTF; where the drawn ring runs, its spectrum has its minimum."""
    import torch

    from cryogem_scipion.engine.simulation.ctf import apply_ctf
    from cryogem_scipion.engine.simulation.optics import Optics, ctf_zeros
    from cryogem_scipion.viewers.image_display import mean_spectrum
    optics = Optics(300.0, 2.7, 0.1, 14000.0, 9000.0, 35.0)
    noise = torch.randn(1024, 768, generator=torch.Generator().manual_seed(1))
    write_mrc(tmp_path / "noise.mrc", noise.numpy(), 3.0)
    assert mean_spectrum(tmp_path / "noise.mrc").mean() == pytest.approx(1, abs=0.02)  # 10^6 pixels of variance 1
    write_mrc(tmp_path / "image.mrc", apply_ctf(noise, 3.0, optics).numpy(), 3.0)
    power = mean_spectrum(tmp_path / "image.mrc")
    n = len(power)
    directions = np.linspace(0, 2 * np.pi, 60)
    ring = ctf_zeros(optics, directions, 0.5 / 3.0)[0]

    def mean_along(radius):
        x, y = (np.round(radius * f(directions) * n * 3.0).astype(int) + n // 2 for f in (np.cos, np.sin))
        return power[y, x].mean()

    assert np.ptp(ring) > 0.1 * ring.mean()  # astigmatic
    assert mean_along(ring) < 0.05
    assert mean_along(0.8 * ring) > 0.3
    assert mean_along(1.15 * ring) > 0.3


def test_only_shown_pages_are_drawn_and_keys_turn_them(figure):
    from matplotlib.backend_bases import MouseEvent

    from cryogem_scipion.viewers.paging import Pages
    drawn = []
    pages = Pages(figure, 10_000, 3, drawn.append)
    for key, index in [("right", 4), ("pagedown", 14), ("end", 9999), ("right", 0), ("left", 9999), ("home", 0),
                       ("pageup", None), ("x", None)]:
        _press(figure, key)
        assert index is None or drawn[-1] == index
    assert drawn == [3, 4, 14, 9999, 0, 9999, 0]
    pages.slider.set_val(500)
    assert drawn[-1] == 0  # drawn when the slider is let go
    assert pages.slider.valtext.get_text() == "500 of 10000"
    figure.canvas.callbacks.process("button_release_event", MouseEvent("button_release_event", figure.canvas, 1, 1, 1))
    assert drawn[-1] == 499


def test_losses_follow_the_run(tmp_path, figure):
    from cryogem_scipion.viewers import training_figures
    table = tmp_path / "losses.csv"
    head = "step,steps,adversarial,contrastive,discriminator,contrast_drift,steps_per_second\n"
    table.write_text(head)
    with pytest.raises(DataError, match=r"no step so far.*wait for the first steps"):
        training_figures.draw_losses(figure, table)
    table.write_text(head + "".join(f"{step},600,0.5,2,0.25,0,2\n" for step in range(1, 11)))
    training_figures.draw_losses(figure, table)
    line = figure.axes[0].lines[1]
    assert np.max(line.get_xdata()) == 10
    assert figure.get_suptitle() == "step 10 of 600, 2 steps a second, 5 min left"
    with table.open("a") as file:
        file.write("11,600,0.75,2,0.25,0,2\n")
    [(refresh, *_)] = figure.cryogem_timer.callbacks
    refresh()
    assert np.max(line.get_xdata()) == 11
    assert figure.axes[0].get_ylim()[1] >= 0.75
    assert "step 11 of 600" in figure.get_suptitle()


def test_the_state_nearest_to_the_held_out_micrographs_is_marked(tmp_path, figure):
    from cryogem_scipion.viewers import training_figures
    columns = "adversarial,contrastive,discriminator,contrast_drift,steps_per_second"
    (tmp_path / "losses.csv").write_text(f"step,steps,{columns}\n" + "300,300,1,1,1,0,2\n")
    (tmp_path / "realism.csv").write_text("step,realism,spectrum\n100,9,1\n200,4,1\n300,6,1\n")
    training_figures.draw_losses(figure, tmp_path / "losses.csv")
    *_, best = figure.axes[-1].lines
    assert (list(best.get_xdata()), list(best.get_ydata())) == ([200], [4])
    assert figure.axes[-1].get_ylabel() == "distance from\nheld-out real"


def test_the_state_that_the_critic_tells_apart_least_is_marked(tmp_path, figure):
    from cryogem_scipion.viewers import training_figures
    columns = "adversarial,contrastive,discriminator,contrast_drift,steps_per_second"
    (tmp_path / "losses.csv").write_text(f"step,steps,{columns}\n" + "300,300,1,1,1,0,2\n")
    (tmp_path / "realism.csv").write_text("step,realism,auc,best_step\n100,9,0.9,100\n200,5,0.6,200\n300,4,0.7,200\n")
    training_figures.draw_losses(figure, tmp_path / "losses.csv")
    for axis, value in zip(figure.axes[-2:], (0.6, 5), strict=True):
        *_, best = axis.lines
        assert (list(best.get_xdata()), list(best.get_ydata())) == ([200], [value])
    assert figure.axes[-2].get_ylabel() == "told apart (AUC)"


def test_the_first_judged_state_opens_its_row_in_the_open_window(tmp_path, figure):
    from cryogem_scipion.viewers import training_figures
    columns = "adversarial,contrastive,discriminator,contrast_drift,steps_per_second"
    table = tmp_path / "losses.csv"
    table.write_text(f"step,steps,{columns}\n" + "1,300,1,1,1,0,2\n")
    (tmp_path / "realism.csv").write_text("step,realism,spectrum\n")
    training_figures.draw_losses(figure, table)
    rows = len(figure.axes)
    with table.open("a") as file:
        file.write("2,300,1,1,1,0,2\n")
    (tmp_path / "realism.csv").write_text("step,realism,spectrum\n2,9,1\n")
    [(refresh, *_)] = figure.cryogem_timer.callbacks
    refresh()
    assert len(figure.axes) == rows + 1
    assert figure.axes[-1].get_ylabel() == "distance from\nheld-out real"
    assert list(figure.axes[-1].lines[-1].get_xdata()) == [2]
    assert np.max(figure.axes[0].lines[1].get_xdata()) == 2


def test_new_previews_appear_in_the_open_window(tmp_path, figure):
    from cryogem_scipion.viewers import training_figures
    (tmp_path / "previews").mkdir()
    with pytest.raises(DataError, match="has no preview yet"):
        training_figures.draw_previews(figure, tmp_path)
    plt.imsave(tmp_path / "previews/step_0000200.png", np.eye(8))
    training_figures.draw_previews(figure, tmp_path)
    assert figure.get_suptitle().startswith("step 200: ")
    assert not figure.cryogem_pages.slider.ax.get_visible()
    plt.imsave(tmp_path / "previews/step_0000400.png", np.eye(8))
    [(refresh, *_)] = figure.cryogem_timer.callbacks
    refresh()
    assert figure.get_suptitle().startswith("step 400: ")
    assert figure.cryogem_pages.slider.valtext.get_text() == "2 of 2"


def test_what_is_not_there_is_said(tmp_path, figure, folder):
    from cryogem_scipion.viewers import micrograph_figures, training_figures
    for draw, words in [(training_figures.draw_ice_maps, "has measured no real micrograph yet"),
                        (training_figures.draw_comparison, "is written when the training has finished")]:
        with pytest.raises(DataError, match=words):
            draw(figure, tmp_path)
    (tmp_path / "source/real").mkdir(parents=True)
    (tmp_path / "source/real/a.json").write_text('{"name": "micrographs/a.mrc", "ice_grid": null}')
    with pytest.raises(DataError, match="no ice map could be measured on the 1 real"):
        training_figures.draw_ice_maps(figure, tmp_path)
    (tmp_path / "figures.npz").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(DataError, match="cannot be read"):
        training_figures.draw_spectra(figure, tmp_path)
    with pytest.raises(DataError, match="kept no physical images"):
        micrograph_figures.draw_power_spectra(figure, folder, kind="physical")
