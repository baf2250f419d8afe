# SPDX-License-Identifier: GPL-3.0-or-later
"""Viewer of a simulated or generated dataset."""
from collections.abc import Callable
from typing import Any

from pyworkflow.protocol.params import BooleanParam, EnumParam, IntParam, LabelParam
from pyworkflow.viewer import DESKTOP_TKINTER, ProtocolViewer, View

from cryogem_scipion.protocols import ProtCryogemGenerate, ProtCryogemSimulate
from cryogem_scipion.viewers.dataset_statistics import draw_orientations, draw_statistics
from cryogem_scipion.viewers.figure_window import open_figure
from cryogem_scipion.viewers.micrograph_figures import IMAGE_KINDS, draw_gallery, draw_power_spectra

__all__ = ["CryogemDatasetViewer"]


class CryogemDatasetViewer(ProtocolViewer):
    """A labelled dataset: micrographs with particles and masks, power spectra, particle numbers, defocus, poses."""

    _label = "labelled micrographs"
    _targets = [ProtCryogemSimulate, ProtCryogemGenerate]
    _environments = [DESKTOP_TKINTER]

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Visualization")
        group = form.addGroup("Micrographs, one after another")
        group.addParam("firstMicrograph", IntParam, default=1, label="Begin with micrograph",
                       help="Number of the micrograph shown first. Slider, buttons and arrow keys show the others.")
        group.addParam("displayMicrographs", LabelParam, label="Gallery",
                       help="The micrograph with its labels, beside its clean and physical images, if these were kept.")
        group.addParam("showCircles", BooleanParam, default=True, label="Mark particles",
                       help="A circle of the particle's diameter around each particle. Particles cut by the border are "
                       "orange.")
        group.addParam("showOutline", BooleanParam, default=True, label="Outline masks",
                       help="The outline of the particles' masks.")
        group.addParam("displaySpectra", LabelParam, label="Power spectra",
                       help="The micrograph's power spectrum. The rings drawn on it are the zeros of the CTF in its "
                       "label; the dark Thon rings should lie on them.")
        group.addParam("spectrumOf", EnumParam, choices=[*IMAGE_KINDS.values()][:2] + ["the micrographs"],
                       default=2, label="Spectra of", help="Clean images and physical images (with ice and noise, "
                       "before the network) show more rings. Generate dataset keeps them with 'Also keep'.")
        group = form.addGroup("The whole set")
        group.addParam("displayStatistics", LabelParam, label="Particles and defocus",
                       help="Histograms of particles per micrograph and of defocus.")
        group.addParam("displayOrientations", LabelParam, label="Orientations",
                       help="The particles' viewing directions on an equal-area map, and their in-plane angles.")

    def _getVisualizeDict(self) -> dict[str, Callable[..., list[View]]]:
        return {"displayMicrographs": self._micrographs, "displaySpectra": self._spectra,
                "displayStatistics": self._statistics, "displayOrientations": self._orientations}

    def _micrographs(self, name: str | None = None) -> list[View]:
        folder = self.protocol.outFolder()
        return open_figure(self, "Micrographs", (12.6, 5.4), lambda figure: draw_gallery(
            figure, folder, self._first(), self.showCircles.get(), self.showOutline.get()))

    def _spectra(self, name: str | None = None) -> list[View]:
        kind = list(IMAGE_KINDS)[self.spectrumOf.get()]
        return open_figure(self, "Power spectra", (11, 5), lambda figure: draw_power_spectra(
            figure, self.protocol.outFolder(), self._first(), kind))

    def _statistics(self, name: str | None = None) -> list[View]:
        return open_figure(self, "Particles and defocus", (9, 4), lambda figure: draw_statistics(
            figure, self.protocol.outFolder()))

    def _orientations(self, name: str | None = None) -> list[View]:
        return open_figure(self, "Orientations", (10, 4.6), lambda figure: draw_orientations(
            figure, self.protocol.outFolder()))

    def _first(self) -> int:
        return self.firstMicrograph.get(1) - 1
