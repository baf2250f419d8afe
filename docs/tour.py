# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of the README's tour, taken of Scipion's own windows: ``python docs/tour.py --demo demo``.

Needs the finished demo (``make demo``), Xvfb and ImageMagick's ``import``. Scipion's project window is started on a
display of its own; forms, wizards and viewers are opened in it as a click would open them, and each window is
captured. Beside the pictures the script writes ``labels.json``: the texts that the widgets of each window hold.
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
from tour_runs import complete
from tour_widgets import button_of, descendants, is_text, items, texts, wand_of

from cryogem_scipion.demo import PROJECT
from cryogem_scipion.workflow import filled, open_project

SCREEN, WINDOW = "1700x1150x24", "1500x860"
WANDS = {"ProtCryogemSimulate": ("Working pixel size (Å)", "Box size (px)")}
"""Fields of a form whose wizard is shown."""
SETTLE, PATIENCE = 700, 300_000
"""Milliseconds that a window gets to be laid out and drawn, and that we wait for it to come."""
STEPS = 50_000
"""Of a training that is followed, stopped and continued, and never comes to its end."""


class Tour:
    """Opens one window after another and captures it.

    Scipion's windows block the call that opens them, so each is opened by an event of its own and looked at by the
    next one, in the loop of the window itself. ``steps`` is therefore a generator of waiting times (ms).
    """

    def __init__(self, window: Any, out: Path):
        self.window, self.view, self.project, self.out = window, window.getViewWidget(), window.project, out
        self.labels: dict[str, list[str]] = {}

    def start(self) -> None:
        """Begin when the window's loop runs; the program ends with the tour."""
        walk = self.steps()

        def step() -> None:
            try:
                self.window.root.after(next(walk), step)
            except StopIteration:
                self._end(0)
            except Exception:
                traceback.print_exc()
                self._end(1)
        self.window.root.after(2 * SETTLE, step)

    def steps(self) -> Iterator[int]:
        """All windows of the tour."""
        runs = {run.getClassName(): run for run in self.project.getRuns()}
        yield from self.project_window(runs["ProtCryogemGenerate"])
        ours = sorted((name, kind) for name, kind in self.project.getDomain().getProtocols().items()
                      if name.startswith("ProtCryogem"))
        for name, kind in ours:
            yield from self.form(name, runs.get(name) or self.project.newProtocol(kind))
        for name, _ in ours:
            if name in runs:
                yield from self.viewer(name, runs[name])
        yield from self.training(runs["ProtCryogemTrain"])

    def project_window(self, selected: Any) -> Iterator[int]:
        """The tree with our section open, the runs, and the summary of one of them."""
        self.window.root.attributes("-zoomed", False)
        self.window.root.geometry(f"{WINDOW}+0+0")
        tree = self.view.protTree
        panes = next(child for child in self.view.winfo_children() if isinstance(child, tk.PanedWindow))
        panes.sash_place(0, 430, 1)  # as one drags it to read the names
        for item in items(tree):
            tree.item(item, open=tree.item(item, "text") in ("Protocols SPA", "Imports", "CryoGEM"))
        self.view._selectItemProtocol(selected)
        self.view._updateSelection()
        yield SETTLE
        self.capture("project", self.window.root)

    def form(self, name: str, protocol: Any) -> Iterator[int]:
        """The form of a protocol, and what some of its wands open."""
        short = name.removeprefix("ProtCryogem").lower()
        form = yield from self.opened(lambda: self.view._openProtocolForm(protocol))
        self.capture(f"form_{short}", form)
        wands = WANDS.get(name, ()) if self.project.getDomain().findWizards(protocol, "tkinter") else ()
        for number, wand in enumerate(wands, 1):
            wizard = yield from self.opened(lambda wand=wand: wand_of(form, wand).invoke())
            self.capture(f"wizard_{short}_{number}", wizard)
            self.later(wizard.cancel)
            yield SETTLE
        form.destroy()
        yield SETTLE

    def viewer(self, name: str, protocol: Any) -> Iterator[int]:
        """The window of a run's viewer, and each figure that its buttons open."""
        from pyworkflow.viewer import ProtocolViewer
        short = name.removeprefix("ProtCryogem").lower()
        viewer = self.project.getDomain().findViewers(protocol, "tkinter")[0](
            project=self.project, protocol=protocol, parent=self.window)
        if not isinstance(viewer, ProtocolViewer):  # has no window of buttons
            self.later(lambda: viewer.visualize(protocol))
            yield from self.figures(short)
            return
        form = yield from self.opened(lambda: viewer.visualize(protocol, windows=self.window))
        self.capture(f"viewer_{short}", form)
        for button in viewer._getVisualizeDict():
            self.later(lambda button=button: viewer._visualizeParam(button))
            yield from self.figures(f"{short}_{button.removeprefix('display').lower()}")
        form.destroy()
        yield SETTLE

    def training(self, like: Any) -> Iterator[int]:
        """A training that is begun, followed, stopped and continued as with the mouse; then it is taken away."""
        inputs = {name: (pointer.getObjValue(), pointer.getExtended()) for name, pointer in like.iterInputPointers()}
        box = filled(self.project, "ProtCryogemTrain", "a longer training", **inputs, steps=STEPS, checkpointEvery=5,
                     **{name: like.getAttributeValue(name) for name in ("crop", "generatorWidth",
                                                                        "discriminatorWidth")})
        table = Path(self.project.path) / "losses.csv"  # until the box has a folder

        def steps() -> int:
            return len(table.read_text().splitlines()) - 1 if table.is_file() else 0

        yield from self.execute(box, "warning")
        table = Path(self.project.path) / box.outFolder() / "losses.csv"
        yield from self.until(lambda: steps() > 1 and "left" in box.summary()[0], "a first step")
        yield from self.run_shown(box, "running")
        viewer = self.project.getDomain().findViewers(box, "tkinter")[0](project=self.project, protocol=box)
        self.later(lambda: viewer.setProtocol(box) or viewer._visualizeParam("displayLosses"))
        yield from self.until(plt.get_fignums, "losses")
        figure = plt.figure(plt.get_fignums()[0])
        title = figure.get_suptitle()
        yield from self.until(lambda: figure.get_suptitle() != title, "another step")
        yield from self.figures("running_losses")
        done = steps()
        question = yield from self.opened(lambda: self.view._stopProtocol(self.project.getProtocol(box.getObjId())))
        self.later(button_of(question, "Yes").invoke)
        yield from self.until(lambda: self.project.getProtocol(box.getObjId()).isAborted(), "the stop")
        box = self.project.getProtocol(box.getObjId())
        yield from self.run_shown(box, "stopped")
        stopped = steps()
        yield from self.execute(box, "continue", "")  # then its warnings
        yield from self.until(lambda: steps() > max(done, stopped), "a step after the stop")
        yield from self.run_shown(box, "continued")
        box = self.project.getProtocol(box.getObjId())
        self.project.stopProtocol(box)
        self.project.deleteProtocol(box)

    def execute(self, box: Any, *questions: str) -> Iterator[int]:
        """Press Execute in the form of a box, and Yes to what it asks; a question with a name is captured."""
        form = yield from self.opened(lambda: self.view._openProtocolForm(box))
        press = button_of(form, "Execute").invoke
        for name in questions:
            dialog = yield from self.opened(press)
            if name:
                self.capture(name, dialog)
            press = button_of(dialog, "Yes").invoke
        self.later(press)
        yield SETTLE

    def run_shown(self, box: Any, name: str) -> Iterator[int]:
        """The project window with a box chosen, as it is after a look at how the runs are."""
        self.view.refreshRuns(checkPids=True)
        yield SETTLE
        self.view._selectItemProtocol(self.project.getProtocol(box.getObjId(), fromRuns=True))
        self.view._updateSelection()
        yield SETTLE
        self.capture(name, self.window.root)

    def figures(self, name: str) -> Iterator[int]:
        """The figure that is about to open."""
        yield from self.until(plt.get_fignums, name)
        for number in plt.get_fignums():
            figure = plt.figure(number)
            self.capture(name, figure.canvas.manager.window, [text.get_text() for text in figure.findobj(is_text)])
            plt.close(number)

    def opened(self, command: Callable[[], Any]) -> Generator[int, None, Any]:
        """Run what opens a window, wait for it, and return it."""
        before = set(self.windows())
        self.later(command)
        yield from self.until(lambda: set(self.windows()) - before, "a window")
        [window] = set(self.windows()) - before
        return window

    def until(self, there: Callable[[], Any], what: str) -> Iterator[int]:
        """Wait until something is there, and then for it to be drawn."""
        for _ in range(PATIENCE // 100):
            if there():
                break
            yield 100
        else:
            raise TimeoutError(f"{what} did not open within {PATIENCE // 1000} s")
        yield SETTLE

    def windows(self) -> list[Any]:
        """Scipion's windows that can be seen."""
        return [child for child in descendants(self.window.root.nametowidget("."))
                if isinstance(child, tk.Toplevel) and child.winfo_viewable()]

    def later(self, command: Callable[[], Any]) -> None:
        """Run what may block as an event of its own."""
        self.window.root.after(1, command)

    def capture(self, name: str, window: Any, more: list[str] | None = None) -> None:
        """Write what a window shows, as a PNG of at most 256 colours, and remember its texts."""
        window.geometry("+0+0")
        window.lift()
        window.update()
        window.after(SETTLE // 3)
        window.update()
        frame = window.tk.call("wm", "frame", window)
        subprocess.run(["import", "-window", frame, "-colors", "256", f"PNG8:{self.out / name}.png"], check=True)
        self.labels[name] = [text for text in map(str, [*texts(window), *(more or [])]) if text.strip()]
        window.lower()

    def _end(self, status: int) -> None:
        (self.out / "labels.json").write_text(json.dumps(self.labels, indent=1, ensure_ascii=False), "utf-8")
        os._exit(status)  # the windows' loops are nested; none of them has anything left to do


def inside(demo: Path, out: Path) -> None:
    """Run Scipion's project window with a tour scheduled in it; in a process and on a display of its own."""
    open_project(demo, PROJECT)
    from pyworkflow.gui.project import ProjectWindow  # after the project has set up Scipion's environment
    shown = ProjectWindow.show

    def show(window: Any, **options: Any) -> None:
        Tour(window, out).start()
        shown(window, **options)
    ProjectWindow.show = show
    sys.argv = ["pw_project", PROJECT]
    runpy.run_module("pyworkflow.apps.pw_project", run_name="__main__")


@contextmanager
def display() -> Iterator[str]:
    """A display that nobody sees; its name."""
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
    """Take the tour's pictures of a finished demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="folder of 'make demo'")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "tour", help="for the pictures")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    demo, out = options.demo.absolute(), options.out.absolute()
    if options.inside:
        inside(demo, out)
        return 0
    missing = [name for name in ("Xvfb", "import") if not shutil.which(name)]
    if missing or not (demo / "projects" / PROJECT).is_dir():
        print(f"needs {' and '.join(missing)}" if missing else f"{demo} has no demo; run 'make demo' first",
              file=sys.stderr)
        return 2
    out.mkdir(parents=True, exist_ok=True)
    complete(demo)
    with display() as name:
        here = Path(__file__).resolve()
        environment = {**os.environ, "DISPLAY": name, "PYTHONPATH": os.pathsep.join(
            filter(None, [str(here.parents[1]), os.environ.get("PYTHONPATH", "")]))}
        # -O: as Scipion starts its window.
        return subprocess.run([sys.executable, "-O", str(here), "--inside", "--demo", str(demo), "--out", str(out)],
                              env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
