# SPDX-License-Identifier: GPL-3.0-or-later
"""Windows of the evaluations: the report's figure, and the picks on every micrograph."""
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pyworkflow.protocol.params import LabelParam
from pyworkflow.viewer import DESKTOP_TKINTER, ProtocolViewer, View

from cryogem_scipion.engine.figures import picks
from cryogem_scipion.engine.figures.poses import draw_poses
from cryogem_scipion.engine.figures.report_files import read_report
from cryogem_scipion.protocols import ProtCryogemEvaluatePicks, ProtCryogemEvaluatePoses
from cryogem_scipion.viewers.images import show
from cryogem_scipion.viewers.pages import Pages
from cryogem_scipion.viewers.window import opened

__all__ = ["CryogemPicksViewer", "CryogemPosesViewer"]


class CryogemPicksViewer(ProtocolViewer):
    """Picks against the truth: curves and errors, and hits, misses and false picks on each micrograph."""

    _label = "evaluation of picks"
    _targets = [ProtCryogemEvaluatePicks]
    _environments = [DESKTOP_TKINTER]

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Visualization")
        form.addParam("displayReport", LabelParam, label="Report", help="Precision and recall, F1 over the threshold, "
                      "position error, scores of the micrographs, an example.")
        form.addParam("displayMicrographs", LabelParam, label="Micrographs", help="Each micrograph with hits, false "
                      "picks, missed particles and picks that were not judged.")

    def _getVisualizeDict(self) -> dict[str, Callable[..., list[View]]]:
        return {"displayReport": self._report, "displayMicrographs": self._micrographs}

    def _report(self, name: str | None = None) -> list[View]:
        return opened(self, "Picks against the truth", picks.FIGURE_SIZE, lambda figure: picks.draw_picks(
            figure, self.protocol.outFolder()))

    def _micrographs(self, name: str | None = None) -> list[View]:
        return opened(self, "Picks on the micrographs", (9, 9), lambda figure: judged_micrographs(
            figure, self.protocol.outFolder()))


class CryogemPosesViewer(ProtocolViewer):
    """Poses against the truth: errors of orientation, shift and defocus."""

    _label = "evaluation of poses"
    _targets = [ProtCryogemEvaluatePoses]
    _environments = [DESKTOP_TKINTER]

    def _defineParams(self, form: Any) -> None:
        form.addSection(label="Visualization")
        form.addParam("displayReport", LabelParam, label="Report", help="Histograms of the errors, particles within an "
                      "error, the error over the viewing direction.")

    def _getVisualizeDict(self) -> dict[str, Callable[..., list[View]]]:
        return {"displayReport": self._report}

    def _report(self, name: str | None = None) -> list[View]:
        return opened(self, "Poses against the truth", picks.FIGURE_SIZE, lambda figure: draw_poses(
            figure, self.protocol.outFolder()))


def judged_micrographs(figure: Figure, folder: Path) -> None:
    """Show one micrograph after another with circles around hits, false picks and missed particles."""
    report, arrays = read_report(folder, picks.REPORT_NAME)
    axis = figure.add_axes((0.02, 0.12, 0.96, 0.82))

    def draw(index: int) -> None:
        axis.clear()
        axis.set_axis_off()
        one = report["micrographs"][index]
        path = Path(one["micrograph"])
        shape = show(axis, path) if path.is_file() else None
        picks.mark_picks(axis, report, arrays, index, shape)
        figure.suptitle(f"{path.name}: {picks.scores_text(one)}", fontsize=11)

    Pages(figure, len(report["micrographs"]), int(arrays["example"]), draw)
