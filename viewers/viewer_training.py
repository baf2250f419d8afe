# SPDX-License-Identifier: GPL-3.0-or-later
"""Viewers of a training and of the noise model that it makes."""
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pyworkflow.protocol.params import LabelParam
from pyworkflow.viewer import DESKTOP_TKINTER, ProtocolViewer, View, Viewer

from cryogem_scipion.objects import CryogemModel
from cryogem_scipion.protocols import ProtCryogemImportModel, ProtCryogemTrain
from cryogem_scipion.viewers.figure_window import open_figure
from cryogem_scipion.viewers.training_figures import (
    draw_comparison,
    draw_ice_maps,
    draw_losses,
    draw_previews,
    draw_spectra,
)

__all__ = ["CryogemModelViewer", "CryogemTrainViewer"]

# Buttons of a training by the name of their parameter: label, help, window size (inches), drawing function.
TRAINING_BUTTONS: dict[str, tuple[str, str, tuple[float, float], Callable[[Figure, Path], None]]] = {
    "displayLosses": ("Losses", "Losses over the steps, updated while the training runs. The adversarial loss and the "
                                "discriminator loss stay between 0 and 1 as long as no network is much better than the "
                                "other.", (8, 6),
                      lambda figure, folder: draw_losses(figure, folder / "losses.csv")),
    "displayPreviews": ("Previews over time", "Crops of physical, generated and real micrographs, always from the "
                        "same places. The slider shows earlier steps. Training is long enough when the previews stop "
                        "changing.", (9.5, 7), draw_previews),
    "displayComparison": ("Real beside generated", "Larger fields in the same grey scale, after the training has "
                                                   "finished. The generated field should look like the real "
                                                   "field.", (12, 4.6), draw_comparison),
    "displaySpectra": ("Spectra and grey values", "Power spectra and histograms of real and generated fields, after "
                                                  "the training has finished. The curves should be close to each "
                                                  "other.", (10, 4.2), draw_spectra),
    "displayIce": ("Ice maps", "The real micrographs at the working pixel size, and the ice map measured from each. "
                   "Generated micrographs get these ice maps.", (11, 6), draw_ice_maps),
}


class CryogemTrainViewer(ProtocolViewer):
    """A training: losses and previews while it runs, then generated beside real micrographs."""

    _label = "training of the noise translator"
    _targets = [ProtCryogemTrain]
    _environments = [DESKTOP_TKINTER]

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Visualization")
        for name, (label, help, *_) in TRAINING_BUTTONS.items():
            form.addParam(name, LabelParam, label=label, help=help)

    def _getVisualizeDict(self) -> dict[str, Callable[..., list[View]]]:
        return dict.fromkeys(TRAINING_BUTTONS, self._show)

    def _show(self, name: str) -> list[View]:
        return _open_training_figure(self, name, self.protocol.outFolder())


class CryogemModelViewer(Viewer):
    """A noise model: figures of its training; for an imported model, its output for discs in white noise."""

    _name = "noise model"
    _targets = [CryogemModel, ProtCryogemImportModel]
    _environments = [DESKTOP_TKINTER]

    def _visualize(self, obj: CryogemModel | ProtCryogemImportModel, **kwargs: Any) -> list[View]:
        folder = Path(obj.getFolder()) if isinstance(obj, CryogemModel) else obj.outFolder()
        trained = (folder / "losses.csv").is_file()
        names = ("displayLosses", "displayPreviews", "displayComparison") if trained else ("displayPreviews",)
        return [view for name in names for view in _open_training_figure(self, name, folder)]


def _open_training_figure(viewer: Viewer, name: str, folder: Path) -> list[View]:
    label, _, size, draw = TRAINING_BUTTONS[name]
    return open_figure(viewer, label, size, lambda figure: draw(figure, folder))
