# SPDX-License-Identifier: GPL-3.0-or-later
"""Viewers of a training and of the noise model that it makes."""
from pathlib import Path
from typing import Any

from pyworkflow.viewer import DESKTOP_TKINTER, View, Viewer

from cryogem_scipion.objects import CryogemModel
from cryogem_scipion.protocols import ProtCryogemImportModel, ProtCryogemTrain
from cryogem_scipion.viewers.training_buttons import Button, TrainingViewer
from cryogem_scipion.viewers.training_figures import (
    draw_comparison,
    draw_ice_maps,
    draw_losses,
    draw_previews,
    draw_spectra,
)

__all__ = ["CryogemModelViewer", "CryogemTrainViewer"]

# By the name of their parameter.
TRAINING_BUTTONS = {
    "displayLosses": Button(
        "Losses", "Losses over the steps, updated while the training runs. The adversarial loss and the discriminator "
        "loss stay between 0 and 1 as long as no network is much better than the other.", (8, 6),
        lambda figure, folder: draw_losses(figure, folder / "losses.csv")),
    "displayPreviews": Button(
        "Previews over time", "Crops of physical, generated and real micrographs, always from the same places. The "
        "slider shows earlier steps. Training is long enough when the previews stop changing.", (9.5, 7),
        draw_previews),
    "displayComparison": Button(
        "Real beside generated", "Larger fields in the same grey scale, after the training has finished. The generated "
        "field should look like the real field.", (12, 4.6), draw_comparison),
    "displaySpectra": Button(
        "Spectra and grey values", "Power spectra and histograms of real and generated fields, after the training has "
        "finished. The curves should be close to each other.", (10, 4.2), draw_spectra),
    "displayIce": Button(
        "Ice maps", "The real micrographs at the working pixel size, and the ice map measured from each. Generated "
        "micrographs get these ice maps.", (11, 6), draw_ice_maps),
}


class CryogemTrainViewer(TrainingViewer):
    """A training: losses and previews while it runs, then generated beside real micrographs."""

    _label = "training of the noise translator"
    _targets = [ProtCryogemTrain]
    _buttons = TRAINING_BUTTONS


class CryogemModelViewer(Viewer):
    """A noise model: figures of its training; for an imported model, its output for discs in white noise."""

    _name = "noise model"
    _targets = [CryogemModel, ProtCryogemImportModel]
    _environments = [DESKTOP_TKINTER]

    def _visualize(self, obj: CryogemModel | ProtCryogemImportModel, **kwargs: Any) -> list[View]:
        folder = Path(obj.getFolder()) if isinstance(obj, CryogemModel) else obj.outFolder()
        trained = (folder / "losses.csv").is_file()
        names = ("displayLosses", "displayPreviews", "displayComparison") if trained else ("displayPreviews",)
        return [view for name in names for view in TRAINING_BUTTONS[name].open(self, folder)]
