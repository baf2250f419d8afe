# SPDX-License-Identifier: GPL-3.0-or-later
"""Training in several processes at once, started by torch's own launcher (torchrun)."""
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from cryogem_scipion import launcher
from cryogem_scipion.engine.settings import TrainPosesSettings, TrainSettings

__all__ = ["is_distributed", "run_distributed"]


def is_distributed() -> bool:
    """Return whether torch's launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def run_distributed(stage: str, settings: TrainSettings | TrainPosesSettings) -> NoReturn:
    """Run a training in several processes, and exit with their status.

    The processes share the threads. They print their error messages themselves.

    Parameters
    ----------
    stage
        Name of the command.
    """
    threads = settings.threads or len(os.sched_getaffinity(0))
    shared = settings.model_copy(update={"threads": max(1, threads // settings.processes)})
    with tempfile.TemporaryDirectory(prefix="cryogem-") as folder:
        config = Path(folder) / "run.json"
        config.write_text(shared.model_dump_json(), "utf-8")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
                   str(settings.processes), str(launcher.__file__), stage, "--config", str(config)]
        finished = subprocess.run(command, env={**os.environ, "TORCHELASTIC_ERROR_FILE": ""})
    raise SystemExit(min(2, finished.returncode) if finished.returncode >= 0 else 2)
