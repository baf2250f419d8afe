# SPDX-License-Identifier: GPL-3.0-or-later
"""The window of a wizard on a virtual screen: its widgets, the effect of a slider, and a screen capture."""
import os
import shutil
import subprocess
import sys
import textwrap

import pytest

from tests.registration import CHECKOUT

pytestmark = pytest.mark.optional
pytest.importorskip("pwem", reason="Scipion's packages are not installed")

WINDOW = """
    import os, sys, tkinter, traceback
    import numpy as np
    from pyworkflow.gui import Window
    from cryogem_scipion.wizards import dialogs, previews
    from cryogem_scipion.wizards.figures import draw_particle_views

    y, x = np.mgrid[-24:24, -24:24]
    ball = np.sqrt(np.maximum(0, 144 - (x / 1.2) ** 2 - y**2)).astype(np.float32)
    views = previews.ParticleViews(
        np.stack([np.rot90(ball, turn) for turn in range(6)]), np.full(6, 12.0), 5.0, 144.0, 44)
    sliders = (dialogs.Slider("boxSize", "Box size (px)", 44, 14, 116, 2, derived=True),
               dialogs.Slider("particleDistance", "Smallest distance (Å)", 144, 36, 432, 1, derived=True))
    page = dialogs.Page("Box size and distance of the particles", (11, 4.2), sliders,
                        lambda figure, *values: draw_particle_views(figure, views, *values))
    root = Window("form", None, minsize=(300, 200)).root

    def all_of(widget, kind):
        for child in widget.winfo_children():
            if isinstance(child, kind):
                yield child
            yield from all_of(child, kind)

    def soon(work, *given):
        # Call work again and again until it is not None; an error ends the program.
        def attempt():
            try:
                if work(*given) is None:
                    soon(work, *given)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        root.after(200, attempt)

    def look():
        dialog = next(all_of(root, dialogs._Window), None)
        if dialog is None or not dialog.winfo_viewable():
            return None
        labels = [label.cget("text") for label in all_of(dialog, tkinter.Label)]
        assert {"Box size (px)", "Smallest distance (Å)", "44", "144"} <= set(labels), labels
        box, distance = all_of(dialog, tkinter.Scale)
        assert (box.get(), distance.get()) == (44, 144)
        box.set(60)
        soon(capture, dialog)
        return True

    def capture(dialog):
        if "box 60 px = 300 Å" not in dialog.figure.get_suptitle():
            return None  # not drawn anew yet
        dialog.geometry("+0+0")
        dialog.update()
        os.system("import -window root " + sys.argv[1])
        dialog._handleResult(dialogs.RESULT_YES)
        return True

    soon(look)
    root.after(100, lambda: print(dialogs.ask_values(root, page), flush=True) or os._exit(0))
    root.mainloop()
"""


@pytest.fixture
def screen(tmp_path):
    """A display of its own."""
    for program in ("Xvfb", "import"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    read, write = os.pipe()
    server = subprocess.Popen(["Xvfb", "-displayfd", str(write), "-screen", "0", "1250x720x24", "-nolisten", "tcp"],
                              pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as pipe:
        number = pipe.readline().strip()
    yield f":{number}"
    server.terminate()
    server.wait()


def test_the_wizard_window_shows_its_sliders_and_returns_their_values(screen, tmp_path):
    capture = os.environ.get("CRYOGEM_CAPTURES", str(tmp_path)) + "/wizard.png"
    environment = {**os.environ, "DISPLAY": screen, "PYTHONPATH": str(CHECKOUT), "SCIPION_DOMAIN": "pwem"}
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(WINDOW), capture], env=environment, cwd=tmp_path,
                             capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-3000:]
    assert "{'boxSize': 60.0, 'particleDistance': 144}" in process.stdout
    assert os.path.getsize(capture) > 10_000
