# SPDX-License-Identifier: GPL-3.0-or-later
"""The program ``cryogem``: one command for each stage."""
import importlib
import logging
import os
import sys

from cryogem_scipion.engine.cli import command
from cryogem_scipion.engine.errors import CryogemError
from cryogem_scipion.engine.runs.failures import guarded, one_line
from cryogem_scipion.engine.settings import RunSettings

__all__ = ["main", "run"]


def main() -> int:
    """Run the command line; 0 when done, 2 with one line on bad input, 130 when interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        stage, settings = command(sys.argv[1:])
        run(stage, settings)
    except CryogemError as error:
        print(f"cryogem: {one_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cryogem: interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


def run(stage: str, settings: RunSettings) -> None:
    """Run one stage; the heavy libraries are loaded only now, when the settings are known to be right."""
    # Read by the numerical libraries when they are loaded. Threads that wait asleep instead of spinning cost nothing
    # on an idle machine, and on a shared one a training step takes a fifth of the time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if settings.threads:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ[name] = str(settings.threads)
    with guarded(settings):
        importlib.import_module("cryogem_scipion.engine.stages." + stage.replace("-", "_")).run(settings)


if __name__ == "__main__":
    sys.exit(main())
