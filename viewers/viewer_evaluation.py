# SPDX-License-Identifier: GPL-3.0-or-later
"""Viewers of the evaluations of datasets, picks and poses."""
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pyworkflow.protocol.params import LabelParam
from pyworkflow.viewer import DESKTOP_TKINTER, ProtocolViewer, View, Viewer

from cryogem_scipion.engine.figures import picks
from cryogem_scipion.engine.figures.evaluation import FIGURE_SIZE, draw_evaluation
from cryogem_scipion.engine.figures.poses import draw_poses
from cryogem_scipion.engine.figures.report_files import read_report
from cryogem_scipion.engine.figures.two_sample import TWO_SAMPLE_FIGURE_SIZE, draw_two_sample, has_two_sample
from cryogem_scipion.protocols import ProtCryogemEvaluate, ProtCryogemEvaluatePicks, ProtCryogemEvaluatePoses
from cryogem_scipion.viewers.figure_window import open_figure
from cryogem_scipion.viewers.image_display import show_image
from cryogem_scipion.viewers.paging import Pages

__all__ = ["CryogemEvaluateViewer", "CryogemPicksViewer", "CryogemPosesViewer"]


class CryogemEvaluateViewer(Viewer):
    """A comparison of generated with real micrographs: examples, curves of both sets, table of distances."""

    _name = "comparison of micrographs"
    _targets = [ProtCryogemEvaluate]
    _environments = [DESKTOP_TKINTER]

    def _visualize(self, obj: ProtCryogemEvaluate, **kwargs: Any) -> list[View]:
        views = open_figure(self, "Generated and real micrographs", FIGURE_SIZE,
                            lambda figure: draw_evaluation(figure, obj.outFolder()))
        if has_two_sample(obj.outFolder()):
            views += open_figure(self, "Two-sample test", TWO_SAMPLE_FIGURE_SIZE,
                                 lambda figure: draw_two_sample(figure, obj.outFolder()))
        return views


class CryogemPicksViewer(ProtocolViewer):
    """Picks against the truth: curves and errors, and hits, misses and false picks on each micrograph."""

    _label = "evaluation of picks"
    _targets = [ProtCryogemEvaluatePicks]
    _environments = [DESKTOP_TKINTER]

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Visualization")
        form.addParam("displayReport", LabelParam, label="Report", help="Precision and recall, F1 for each threshold, "
                                                                        "position errors, scores of the micrographs, "
                                                                        "and an example.")
        form.addParam("displayMicrographs", LabelParam, label="Micrographs", help="Each micrograph with hits, false "
                      "picks, missed particles and picks that do not count.")

    def _getVisualizeDict(self) -> dict[str, Callable[..., list[View]]]:
        return {"displayReport": self._report, "displayMicrographs": self._micrographs}

    def _report(self, name: str | None = None) -> list[View]:
        return open_figure(self, "Picks against the truth", picks.FIGURE_SIZE, lambda figure: picks.draw_picks(
            figure, self.protocol.outFolder()))

    def _micrographs(self, name: str | None = None) -> list[View]:
        return open_figure(self, "Picks on the micrographs", (9, 9), lambda figure: draw_picked_micrographs(
            figure, self.protocol.outFolder()))


class CryogemPosesViewer(ProtocolViewer):
    """Poses against the truth: errors of orientation, shift and defocus."""

    _label = "evaluation of poses"
    _targets = [ProtCryogemEvaluatePoses]
    _environments = [DESKTOP_TKINTER]

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Visualization")
        form.addParam("displayReport", LabelParam, label="Report", help="Histograms of the errors, the fraction of "
                                                                        "particles below each error, and the error for "
                                                                        "each viewing direction.")

    def _getVisualizeDict(self) -> dict[str, Callable[..., list[View]]]:
        return {"displayReport": self._report}

    def _report(self, name: str | None = None) -> list[View]:
        return open_figure(self, "Poses against the truth", picks.FIGURE_SIZE, lambda figure: draw_poses(
            figure, self.protocol.outFolder()))


def draw_picked_micrographs(figure: Figure, folder: Path) -> None:
    """Show the micrographs, one per page, with circles around hits, false picks and missed particles."""
    report, arrays = read_report(folder, picks.REPORT_NAME)
    axis = figure.add_axes((0.02, 0.12, 0.96, 0.82))

    def draw(index: int) -> None:
        axis.clear()
        axis.set_axis_off()
        scores = report["micrographs"][index]
        path = Path(scores["micrograph"])
        shape = show_image(axis, path) if path.is_file() else None
        picks.mark_picks(axis, report, arrays, index, shape)
        figure.suptitle(f"{path.name}: {picks.scores_text(scores)}", fontsize=11)

    Pages(figure, len(report["micrographs"]), int(arrays["example"]), draw)
