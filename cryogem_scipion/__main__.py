# SPDX-License-Identifier: GPL-3.0-or-later
"""The program ``cryogem``: one command for each stage."""
import importlib
import logging
import os
import sys

from cryogem_scipion.engine.cli import parse_command_line
from cryogem_scipion.engine.errors import CryogemError
from cryogem_scipion.engine.runs.failures import handle_failures, one_line
from cryogem_scipion.engine.settings import RunSettings

__all__ = ["main", "run"]


def main() -> int:
    """Run the command line, and return its exit status: 0 at the end, 2 on bad input, 130 when interrupted."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        stage, settings = parse_command_line(sys.argv[1:])
        run(stage, settings)
    except CryogemError as error:
        print(f"cryogem: {one_line(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cryogem: interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


def run(stage: str, settings: RunSettings) -> None:
    """Run one stage. The large libraries are loaded here, after the settings have been checked."""
    # The numerical libraries read these variables when they are loaded. PASSIVE lets waiting threads sleep. On an idle
    # machine this costs nothing, and on a shared machine a training step takes a fifth of the time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if settings.threads:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ[name] = str(settings.threads)
    with handle_failures(settings):
        importlib.import_module("cryogem_scipion.engine.stages." + stage.replace("-", "_")).run(settings)


if __name__ == "__main__":
    sys.exit(main())
