# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs stages in processes of their own that can be killed at a chosen moment, without the seconds that imports take.

    python -m tests.killable_runs FOLDER        makes damaged_inputs.make_valid_inputs there; reads a JSON object a line, answers with one

Each line is a stage, its settings, and when to send the process SIGKILL: just before the ``event``-th thing it does to
a file in its output folder (opening for writing, renaming, removing, making a folder), or after so many ``seconds``.
The answer has the exit status (negative: the signal) and how many such things were done.
"""
import json
import os
import signal
import sys
import threading
from pathlib import Path

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def main():
    """Load and compile what stages need, in one thread, then fork a process for each line."""
    import torch

    from tests.damaged_inputs import make_valid_inputs
    torch.set_num_threads(1)
    make_valid_inputs(Path(sys.argv[1]))
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        count, told = os.pipe()
        child = os.fork()
        if not child:
            status = 1
            try:
                status = _run(order, told)
            finally:
                os._exit(status)
        os.close(told)
        timer = threading.Timer(order.get("seconds") or 1e9, os.kill, (child, signal.SIGKILL))
        timer.daemon = True
        timer.start()
        with os.fdopen(count, "rb") as pipe:
            events = len(pipe.read())
        _, status = os.waitpid(child, 0)
        timer.cancel()
        print(json.dumps({"status": os.waitstatus_to_exitcode(status), "events": events}), flush=True)


def _run(order, told):
    """What the program does between reading its settings and its end."""
    from cryogem_scipion.__main__ import run
    from cryogem_scipion.engine.settings import STAGES, parse
    out, last = os.path.abspath(order["settings"]["out"]), order.get("event")
    done = 0

    def watch(event, arguments):
        nonlocal done
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if (opened or event in CHANGES) and str(arguments[0]).startswith(out):
            done += 1
            if done == last:
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(told, b".")

    settings = parse(STAGES[order["stage"]], order["settings"])
    sys.addaudithook(watch)
    run(order["stage"], settings)
    return 0


if __name__ == "__main__":
    main()
