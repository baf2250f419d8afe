# SPDX-License-Identifier: GPL-3.0-or-later
"""A SLURM with one node on this machine, with its own folder, key and ports."""
import os
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

__all__ = ["cluster", "missing"]

DAEMONS = ("munged", "slurmctld", "slurmd")
TIMEOUT = 120
"""Seconds; the daemons need two on an idle machine."""
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller}
SlurmdPort={node}
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
KillWait=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory={megabytes} State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP
"""


def missing():
    """Return the reason why SLURM cannot be started on this machine; empty if it can be started."""
    absent = [name for name in (*DAEMONS, "sbatch") if not shutil.which(name, path=_path())]
    if absent:
        return f"{', '.join(absent)} not found: Debian's package slurm-wlm is not installed"
    return "" if os.geteuid() == 0 else "SLURM's daemons have to be started by root"


@contextmanager
def cluster(folder):
    """Start the daemons and wait until the node is idle; at the end stop the jobs and the daemons.

    Yields the environment variables for ``sbatch`` and other commands. ``RuntimeError`` when SLURM does not start.
    """
    folder = Path(folder)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    with closing(socket.socket()) as first, closing(socket.socket()) as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        ports = [bound.getsockname()[1] for bound in (first, second)]
    host = socket.gethostname().partition(".")[0]
    megabytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20 - 512
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, host=host, controller=ports[0], node=ports[1],
                                                  cores=os.cpu_count(), megabytes=megabytes))
    environment = {"SLURM_CONF": str(configuration), "PATH": _path()}
    munge = [f"--{name}={folder}/munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
    with ExitStack() as running:
        running.enter_context(_daemon(["munged", "--foreground", "--force", f"--key-file={key}", *munge], environment))
        _wait(lambda: (folder / "munge.socket").exists(), folder)
        running.enter_context(_daemon(["slurmctld", "-D", "-f", configuration], environment))
        running.enter_context(_daemon(["slurmd", "-D", "-f", configuration, "-N", host], environment))
        _wait(lambda: _ask(["sinfo", "-h", "-p", "cpu", "-o", "%t"], environment).strip() == "idle", folder)
        try:
            yield environment
        finally:
            _ask(["scancel", "--partition=cpu"], environment)
            _ask(["scancel", "--partition=gpu"], environment)
            _wait(lambda: not _ask(["squeue", "-h"], environment), folder)


@contextmanager
def _daemon(command, environment):
    process = subprocess.Popen(list(map(str, command)), env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(TIMEOUT)


def _ask(command, environment):
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True).stdout


def _wait(condition, folder):
    until = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > until:
            logs = "\n".join(path.read_text("utf-8", "replace")[-1500:] for path in sorted(folder.glob("*log*")))
            raise RuntimeError(f"SLURM is not ready after {TIMEOUT} s\n{logs}")
        time.sleep(0.1)


def _path():
    """The search path with Debian's folders of daemons, which are not on every user's path."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
