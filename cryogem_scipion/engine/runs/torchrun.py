# SPDX-License-Identifier: GPL-3.0-or-later
"""A stage in several processes at once, started by torch's own launcher (torchrun)."""
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

from cryogem_scipion import launcher
from cryogem_scipion.engine.settings import TrainSettings

__all__ = ["launch", "launched"]


def launched() -> bool:
    """Whether torch's launcher started this process, as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def launch(settings: TrainSettings) -> NoReturn:
    """Run the same settings in several processes and end with their status; what is wrong they have said.

    They share the processor's threads among them.
    """
    threads = settings.threads or len(os.sched_getaffinity(0))
    shared = settings.model_copy(update={"threads": max(1, threads // settings.processes)})
    with tempfile.TemporaryDirectory(prefix="cryogem-") as folder:
        config = Path(folder) / "run.json"
        config.write_text(shared.model_dump_json(), "utf-8")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
                   str(settings.processes), str(launcher.__file__), "train", "--config", str(config)]
        done = subprocess.run(command, env={**os.environ, "TORCHELASTIC_ERROR_FILE": ""})
    raise SystemExit(min(2, done.returncode) if done.returncode >= 0 else 2)
