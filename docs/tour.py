# SPDX-License-Identifier: GPL-3.0-or-later
"""Screenshots of Scipion's windows for the tour: ``python docs/tour.py --demo demo``.

The script needs the finished demo (``make demo``), Xvfb and ImageMagick's ``import``. It starts Scipion's project
window on a virtual display, opens forms, wizards and viewers as a user does, and captures each window. Beside the
screenshots it writes ``labels.json`` with the texts of each window's widgets.
"""
import argparse
import json
import os
import runpy
import shutil
import subprocess
import sys
import tkinter as tk
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from tour_runs import add_runs
from tour_widgets import button_of, descendants, is_text, items, texts, wizard_button

from cryogem_scipion.demo import PROJECT
from cryogem_scipion.workflow import new_protocol, open_project

SCREEN, WINDOW = "1700x1150x24", "1500x860"
WIZARD_FIELDS = {"ProtCryogemSimulate": ("Working pixel size (Å)", "Box size (px)"),
                 "ProtCryogemTrainPoses": ("Diameter of the particle (Å)",)}
"""Fields of each form whose wizards are shown."""
DRAWING_MS, TIMEOUT_MS = 700, 300_000
"""Time (ms) for drawing a window, and longest time to wait until a window opens."""
STEPS = 50_000
"""Steps of the training that is followed, stopped and continued; it is never finished."""


class Tour:
    """Opens the windows one after another and captures them.

    Scipion's windows block the call that opens them. So one event of the window's loop opens a window, and a later
    event captures it. ``steps`` is therefore a generator of waiting times (ms).
    """

    def __init__(self, window: Any, out: Path):
        self.window, self.view, self.project, self.out = window, window.getViewWidget(), window.project, out
        self.labels: dict[str, list[str]] = {}

    def start(self) -> None:
        """Start the tour when the window's loop runs; the program ends with the tour."""
        walk = self.steps()

        def step() -> None:
            try:
                self.window.root.after(next(walk), step)
            except StopIteration:
                self._end(0)
            except Exception:
                traceback.print_exc()
                self._end(1)
        self.window.root.after(2 * DRAWING_MS, step)

    def steps(self) -> Iterator[int]:
        """Go through all windows of the tour."""
        runs = {run.getClassName(): run for run in self.project.getRuns()}
        yield from self.project_window(runs["ProtCryogemGenerate"])
        protocols = sorted((name, kind) for name, kind in self.project.getDomain().getProtocols().items()
                      if name.startswith("ProtCryogem"))
        for name, kind in protocols:
            yield from self.form(name, runs.get(name) or self.project.newProtocol(kind))
        for name, _ in protocols:
            if name in runs:
                yield from self.viewer(name, runs[name])
        yield from self.training(runs["ProtCryogemTrain"])

    def project_window(self, selected: Any) -> Iterator[int]:
        """Capture the protocol tree with the section CryoGEM open, the runs, and the summary of one run."""
        self.window.root.attributes("-zoomed", False)
        self.window.root.geometry(f"{WINDOW}+0+0")
        tree = self.view.protTree
        panes = next(child for child in self.view.winfo_children() if isinstance(child, tk.PanedWindow))
        panes.sash_place(0, 430, 1)  # wide enough for the protocols' names
        for item in items(tree):
            tree.item(item, open=tree.item(item, "text") in ("Protocols SPA", "Imports", "CryoGEM"))
        self.view._selectItemProtocol(selected)
        self.view._updateSelection()
        yield DRAWING_MS
        self.capture("project", self.window.root)

    def form(self, name: str, protocol: Any) -> Iterator[int]:
        """Capture the form of a protocol, and some of its wizards."""
        short = name.removeprefix("ProtCryogem").lower()
        form = yield from self.opened(lambda: self.view._openProtocolForm(protocol))
        self.capture(f"form_{short}", form)
        fields = WIZARD_FIELDS.get(name, ()) if self.project.getDomain().findWizards(protocol, "tkinter") else ()
        for number, field in enumerate(fields, 1):
            wizard = yield from self.opened(lambda field=field: wizard_button(form, field).invoke())
            self.capture(f"wizard_{short}_{number}", wizard)
            self.later(wizard.cancel)
            yield DRAWING_MS
        form.destroy()
        yield DRAWING_MS

    def viewer(self, name: str, protocol: Any) -> Iterator[int]:
        """Capture the viewer of a run, and each figure that its buttons open."""
        from pyworkflow.viewer import ProtocolViewer
        short = name.removeprefix("ProtCryogem").lower()
        viewer = self.project.getDomain().findViewers(protocol, "tkinter")[0](
            project=self.project, protocol=protocol, parent=self.window)
        if not isinstance(viewer, ProtocolViewer):  # opens its figure directly
            self.later(lambda: viewer.visualize(protocol))
            yield from self.figures(short)
            return
        form = yield from self.opened(lambda: viewer.visualize(protocol, windows=self.window))
        self.capture(f"viewer_{short}", form)
        for button in viewer._getVisualizeDict():
            self.later(lambda button=button: viewer._visualizeParam(button))
            yield from self.figures(f"{short}_{button.removeprefix('display').lower()}")
        form.destroy()
        yield DRAWING_MS

    def training(self, finished: Any) -> Iterator[int]:
        """Start, follow, stop and continue a training as a user does, then delete it."""
        inputs = {name: (pointer.getObjValue(), pointer.getExtended())
                  for name, pointer in finished.iterInputPointers()}
        protocol = new_protocol(self.project, "ProtCryogemTrain", "a longer training", **inputs, steps=STEPS,
                                checkpointEvery=5, **{name: finished.getAttributeValue(name) for name in (
                                    "crop", "generatorWidth", "discriminatorWidth")})
        table = Path(self.project.path) / "losses.csv"  # until the protocol has a folder

        def steps() -> int:
            return len(table.read_text().splitlines()) - 1 if table.is_file() else 0

        yield from self.execute(protocol, "warning")
        table = Path(self.project.path) / protocol.outFolder() / "losses.csv"
        yield from self.until(lambda: steps() > 1 and "left" in protocol.summary()[0], "a first step")
        yield from self.selected_run(protocol, "running")
        viewer = self.project.getDomain().findViewers(protocol, "tkinter")[0](project=self.project, protocol=protocol)
        self.later(lambda: viewer.setProtocol(protocol) or viewer._visualizeParam("displayLosses"))
        yield from self.until(plt.get_fignums, "losses")
        figure = plt.figure(plt.get_fignums()[0])
        title = figure.get_suptitle()
        yield from self.until(lambda: figure.get_suptitle() != title, "another step")
        yield from self.figures("running_losses")
        done = steps()
        running = self.project.getProtocol(protocol.getObjId())
        question = yield from self.opened(lambda: self.view._stopProtocol(running))
        self.later(button_of(question, "Yes").invoke)
        yield from self.until(lambda: self.project.getProtocol(protocol.getObjId()).isAborted(), "the stop")
        protocol = self.project.getProtocol(protocol.getObjId())
        yield from self.selected_run(protocol, "stopped")
        stopped = steps()
        yield from self.execute(protocol, "continue", "")  # then its warnings
        yield from self.until(lambda: steps() > max(done, stopped), "a step after the stop")
        yield from self.selected_run(protocol, "continued")
        protocol = self.project.getProtocol(protocol.getObjId())
        self.project.stopProtocol(protocol)
        self.project.deleteProtocol(protocol)

    def execute(self, protocol: Any, *questions: str) -> Iterator[int]:
        """Click Execute in the form of a protocol, and Yes in its questions; a question with a name is captured."""
        form = yield from self.opened(lambda: self.view._openProtocolForm(protocol))
        click = button_of(form, "Execute").invoke
        for name in questions:
            dialog = yield from self.opened(click)
            if name:
                self.capture(name, dialog)
            click = button_of(dialog, "Yes").invoke
        self.later(click)
        yield DRAWING_MS

    def selected_run(self, protocol: Any, name: str) -> Iterator[int]:
        """Capture the project window with a protocol selected and the status of the runs updated."""
        self.view.refreshRuns(checkPids=True)
        yield DRAWING_MS
        self.view._selectItemProtocol(self.project.getProtocol(protocol.getObjId(), fromRuns=True))
        self.view._updateSelection()
        yield DRAWING_MS
        self.capture(name, self.window.root)

    def figures(self, name: str) -> Iterator[int]:
        """Capture the figure that is about to open."""
        yield from self.until(plt.get_fignums, name)
        for number in plt.get_fignums():
            figure = plt.figure(number)
            self.capture(name, figure.canvas.manager.window, [text.get_text() for text in figure.findobj(is_text)])
            plt.close(number)

    def opened(self, command: Callable[[], Any]) -> Generator[int, None, Any]:
        """Call ``command``, wait for the window that it opens, and return the window."""
        before = set(self.windows())
        self.later(command)
        yield from self.until(lambda: set(self.windows()) - before, "a window")
        [window] = set(self.windows()) - before
        return window

    def until(self, condition: Callable[[], Any], what: str) -> Iterator[int]:
        """Wait until a condition is true, and then until the window is drawn."""
        for _ in range(TIMEOUT_MS // 100):
            if condition():
                break
            yield 100
        else:
            raise TimeoutError(f"{what} did not open within {TIMEOUT_MS // 1000} s")
        yield DRAWING_MS

    def windows(self) -> list[Any]:
        """Return Scipion's visible windows."""
        return [child for child in descendants(self.window.root.nametowidget("."))
                if isinstance(child, tk.Toplevel) and child.winfo_viewable()]

    def later(self, command: Callable[[], Any]) -> None:
        """Call ``command``, which may block, in an event of the window's loop."""
        self.window.root.after(1, command)

    def capture(self, name: str, window: Any, figure_texts: list[str] | None = None) -> None:
        """Write a screenshot of a window as a PNG with at most 256 colours, and keep the window's texts."""
        window.geometry("+0+0")
        window.lift()
        window.update()
        window.after(DRAWING_MS // 3)
        window.update()
        frame = window.tk.call("wm", "frame", window)
        subprocess.run(["import", "-window", frame, "-colors", "256", f"PNG8:{self.out / name}.png"], check=True)
        self.labels[name] = [text for text in map(str, [*texts(window), *(figure_texts or [])]) if text.strip()]
        window.lower()

    def _end(self, status: int) -> None:
        (self.out / "labels.json").write_text(json.dumps(self.labels, indent=1, ensure_ascii=False), "utf-8")
        os._exit(status)  # ends all nested window loops


def run_tour(demo: Path, out: Path) -> None:
    """Run Scipion's project window with the tour scheduled in it; needs its own process and display."""
    open_project(demo, PROJECT)
    from pyworkflow.gui.project import ProjectWindow  # after the project has set up Scipion's environment
    original_show = ProjectWindow.show

    def show(window: Any, **options: Any) -> None:
        Tour(window, out).start()
        original_show(window, **options)
    ProjectWindow.show = show
    sys.argv = ["pw_project", PROJECT]
    runpy.run_module("pyworkflow.apps.pw_project", run_name="__main__")


@contextmanager
def virtual_display() -> Iterator[str]:
    """Start a virtual display, and yield its name."""
    read, write = os.pipe()
    server = subprocess.Popen(["Xvfb", "-displayfd", str(write), "-screen", "0", SCREEN, "-nolisten", "tcp"],
                              pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    try:
        with os.fdopen(read) as pipe:
            yield f":{pipe.readline().strip()}"
    finally:
        server.terminate()
        server.wait()


def main() -> int:
    """Take the screenshots of a finished demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="folder of 'make demo'")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "tour",
                        help="folder for the screenshots")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    demo, out = options.demo.absolute(), options.out.absolute()
    if options.inside:
        run_tour(demo, out)
        return 0
    missing = [name for name in ("Xvfb", "import") if not shutil.which(name)]
    if missing or not (demo / "projects" / PROJECT).is_dir():
        print(f"needs {' and '.join(missing)}" if missing else f"{demo} has no demo; run 'make demo' first",
              file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    add_runs(demo)
    with virtual_display() as name:
        here = Path(__file__).resolve()
        environment = {**os.environ, "DISPLAY": name, "PYTHONPATH": os.pathsep.join(
            filter(None, [str(here.parents[1]), os.environ.get("PYTHONPATH", "")]))}
        # Scipion starts its window with -O, too.
        return subprocess.run([sys.executable, "-O", str(here), "--inside", "--demo", str(demo), "--out", str(out)],
                              env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
