# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs stages in child processes that are killed at a chosen moment. The large libraries are loaded only once.

    python -m tests.killable_runs FOLDER

The program makes valid inputs in FOLDER. Then it reads one JSON object a line and answers each with one JSON object. A
line holds a stage, its settings, and the moment of SIGKILL: just before change number ``event`` in the output folder
(open for writing, rename, remove, make a folder), or after so many ``seconds``. The answer holds the exit status
(negative: the signal) and the number of changes.
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
    """Load and compile all that stages need, in one thread, and then fork a process for each line."""
    import torch

    from tests.damaged_inputs import make_valid_inputs
    torch.set_num_threads(1)
    make_valid_inputs(Path(sys.argv[1]))
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            status = 1
            try:
                status = _run(request, writer)
            finally:
                os._exit(status)
        os.close(writer)
        timer = threading.Timer(request.get("seconds") or 1e9, os.kill, (child, signal.SIGKILL))
        timer.daemon = True
        timer.start()
        with os.fdopen(reader, "rb") as pipe:
            events = len(pipe.read())
        _, status = os.waitpid(child, 0)
        timer.cancel()
        print(json.dumps({"status": os.waitstatus_to_exitcode(status), "events": events}), flush=True)


def _run(request, writer):
    """Run a stage as the program does, and write one byte for each change in the output folder."""
    from cryogem_scipion.__main__ import run
    from cryogem_scipion.engine.settings import STAGES, parse
    out, fatal = os.path.abspath(request["settings"]["out"]), request.get("event")
    changes = 0

    def watch(event, arguments):
        nonlocal changes
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if (opened or event in CHANGES) and str(arguments[0]).startswith(out):
            changes += 1
            if changes == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(writer, b".")

    settings = parse(STAGES[request["stage"]], request["settings"])
    sys.addaudithook(watch)
    run(request["stage"], settings)
    return 0


if __name__ == "__main__":
    main()
