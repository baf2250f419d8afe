# SPDX-License-Identifier: GPL-3.0-or-later
"""Scipion projects from Python scripts: create a project, run protocols, wait for them, report errors.

    project = open_project("somewhere/work", "ribosome")
    volume = run(project, "ProtImportVolumes", filesPath="/data/map.mrc", samplingRate=5.36)
    simulation = run(project, "ProtCryogemSimulate", inputVolume=(volume, "outputVolume"), micrographs=20)

Scipion's Python packages are enough. In a Scipion installation (``scipion3 python script.py``) its configuration is
used, with its queues and environments. Scipion's paths are relative to the project, so ``open_project`` and ``run``
change the current folder to the project's folder.
"""
import importlib.util
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryogem_scipion.engine.errors import CryogemError

__all__ = ["WorkflowError", "new_protocol", "open_project", "rerun", "run"]

HOME_FOLDER = ".scipion"
POLL_SECONDS = 1.0, 30.0
"""Shortest and longest time between two checks of a queue's job."""


class WorkflowError(CryogemError):
    """A protocol of a workflow failed."""


def open_project(folder: str | Path, name: str) -> Any:
    """Return the project ``name`` of a workspace; create it if it does not exist.

    Parameters
    ----------
    folder
        The workspace. Projects are in ``folder/projects``, Scipion's own files in ``folder/.scipion``.
    name
        Name of the project. ``scipion3 project`` shows it when SCIPION_USER_DATA is ``folder``.

    Raises
    ------
    WorkflowError
        This Python has no tkinter.
    """
    # Scipion's own protocols import tkinter. Without it, Scipion leaves them out and reports no error.
    if importlib.util.find_spec("tkinter") is None:
        raise WorkflowError(f"{sys.executable} has no tkinter, which Scipion needs; "
                            "on Debian: apt-get install python3-tk")
    workspace = Path(folder).absolute()
    _prepare_environment(workspace)
    import pwem
    from pyworkflow.project import Project

    pwem.Domain.getProtocols()
    path = workspace / "projects" / Project.cleanProjectName(name)
    project = Project(pwem.Domain, str(path))
    if (path / "project.sqlite").exists():
        project.load()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        project.create()
    return project


def run(project: Any, kind: str, label: str = "", show: Callable[[str], None] = print,
        queue: tuple[str, dict[str, str]] | None = None, **parameters: Any) -> Any:
    """Run a protocol and return it when it has finished.

    Parameters
    ----------
    project
        From ``open_project``.
    kind
        Name of the protocol's class.
    label
        Name of the run in the project.
    show
        Called with each line of the run's log, such as progress and time left.
    queue
        Name of a queue in Scipion's hosts.conf, and values of its fields other than their defaults. The protocol
        runs as a job of that queue, and the function waits for the job.
    parameters
        The form's parameters. An input is ``(protocol, "outputName")``. A choice is its name or its index. The default
        number of threads of this plugin's protocols is the number of CPU cores that this process may use.

    Raises
    ------
    WorkflowError
        The protocol failed; the message has its error and the last lines of its log.
    """
    return rerun(project, new_protocol(project, kind, label, queue, **parameters), show)


def new_protocol(project: Any, kind: str, label: str = "", queue: tuple[str, dict[str, str]] | None = None,
                 **parameters: Any) -> Any:
    """Return a new protocol with its parameters set, which has not run; the arguments are those of ``run``."""
    protocols = project.getDomain().getProtocols()
    if kind not in protocols:
        raise WorkflowError(f"Scipion does not know the protocol {kind!r}; install its plugin, or correct the name")
    os.chdir(project.path)  # Its paths are relative to it, and another project may have been opened after it.
    protocol = project.newProtocol(protocols[kind])
    protocol.setObjLabel(label or protocols[kind].getClassLabel(False))
    if kind.startswith("ProtCryogem"):
        parameters = {"numberOfThreads": len(os.sched_getaffinity(0)), **parameters}
    for name, value in parameters.items():
        _set_parameter(protocol, name, value)
    if queue:
        _use_queue(project, protocol, *queue)
    return protocol


def rerun(project: Any, protocol: Any, show: Callable[[str], None] = print) -> Any:
    """Run a new protocol, or run a protocol again in its run mode (resume or restart); see ``run``."""
    os.chdir(project.path)  # as in ``new_protocol``
    errors = protocol.validate()
    if errors:
        raise WorkflowError(f"{protocol.getObjLabel()}: {'; '.join(errors)}")
    if not protocol.hasObjId():
        project.saveProtocol(protocol)  # creates its folder, where the log is
    ended = threading.Event()
    log_thread = threading.Thread(target=_show_log, args=(Path(project.path), protocol, ended, show), daemon=True)
    log_thread.start()
    try:
        project.launchProtocol(protocol, wait=True)
        _wait_for_job(project, protocol)
    finally:
        ended.set()
        log_thread.join()
    if not protocol.isFinished():
        last_lines = [line for number in (0, 1) for line in protocol.getLogsLastLines(5, number)]
        error = f"{protocol.getObjLabel()} {protocol.getStatus()}: {protocol.getErrorMessage()}"
        text = "\n".join([error, *last_lines])
        raise WorkflowError(re.sub(r"\x1b\[\d+m", "", text))  # without Scipion's colours
    return protocol


def _prepare_environment(workspace: Path) -> None:
    """Create Scipion's folders and environment variables where there is no Scipion installation."""
    home = workspace / HOME_FOLDER
    if Path(os.environ.get("SCIPION_HOME", home)).name != HOME_FOLDER:
        return  # There is a Scipion installation.
    (home / "config").mkdir(parents=True, exist_ok=True)
    hosts = home / "config" / "hosts.conf"
    settings = {"SCIPION_HOME": home, "SCIPION_USER_DATA": workspace, "SCIPION_LOGS": home / "logs",
                "SCIPION_HOSTS": hosts, "SCIPION_SOFTWARE": home / "software", "SCIPION_TESTS": home / "tests"}
    os.environ.update({name: str(value) for name, value in settings.items()})
    os.environ.update(SCIPION_PYTHON=sys.executable, SCIPION_DOMAIN="pwem", SCIPION_NOTIFY="False")
    # A protocol runs in another process, which has to import this copy of the package.
    package_parent = str(Path(__file__).parent.parent)
    search_path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if _is_checkout(package_parent) and package_parent not in search_path:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [package_parent, *search_path]))
    import pyworkflow

    # If Scipion was imported before, it has already read the environment.
    pyworkflow.PYTHON = sys.executable
    for name, value in settings.items():
        setattr(pyworkflow.Config, name, str(value))
    pyworkflow.Config.SCIPION_DOMAIN = "pwem"
    from pyworkflow.protocol import HostConfig
    if not hosts.exists():
        HostConfig.writeBasic(str(hosts))


def _is_checkout(folder: str) -> bool:
    return (Path(folder) / "setup.py").is_file()


def _set_parameter(protocol: Any, name: str, value: Any) -> None:
    param = protocol.getParam(name)
    attribute = getattr(protocol, name, None)
    if attribute is None:
        raise WorkflowError(f"{protocol.getClassName()} has no parameter {name!r}; correct the name")
    if isinstance(value, tuple) and attribute.isPointer():
        attribute.set(value[0])
        attribute.setExtended(value[1])
    elif isinstance(value, str) and getattr(param, "choices", None):
        if value not in list(param.choices):
            raise WorkflowError(f"{name} is {value!r}; give one of {', '.join(map(str, param.choices))}")
        attribute.set(list(param.choices).index(value))
    else:
        attribute.set(str(value) if isinstance(value, Path) else value)


def _use_queue(project: Any, protocol: Any, name: str, values: dict[str, str]) -> None:
    """Make the protocol a job of a queue; fields of the queue that are not in ``values`` keep their defaults."""
    queues = project.getHostConfig(protocol.getHostName()).getQueueSystem().getQueues() or {}
    if name not in queues:
        raise WorkflowError(f"hosts.conf has no queue {name!r}; give one of: {', '.join(queues) or 'none is defined'}")
    fields = {field[0]: field[1] for field in queues[name]}
    unknown = [field for field in values if field not in fields]
    if unknown:
        raise WorkflowError(f"queue {name!r} has no field {unknown[0]!r}; give one of: {', '.join(fields)}")
    protocol._useQueue.set(True)
    protocol.setQueueParams([name, {**fields, **values}])


def _wait_for_job(project: Any, protocol: Any) -> None:
    """Wait for a queue's job. A protocol without a queue has ended when ``launchProtocol`` returns."""
    if not protocol.useQueueForProtocol():
        return
    pause, longest_pause = POLL_SECONDS
    while protocol.isActive():
        time.sleep(pause)
        pause = min(1.2 * pause, longest_pause)
        project._updateProtocol(protocol)
    # Scipion first reads the protocol's state, then asks the queue. A job that ends between the two seems lost, so the
    # state is read once more.
    project._updateProtocol(protocol)


def _show_log(project: Path, protocol: Any, ended: threading.Event, show: Callable[[str], None]) -> None:
    """Pass each new line of the engine's log to ``show`` until the run has ended."""
    path = project / protocol.getStderrLog()
    position = path.stat().st_size if path.exists() else 0
    finished = False
    while not finished:
        finished = ended.wait(0.5)
        if not path.exists():
            continue
        with path.open("rb") as file:
            file.seek(position)
            text = file.read()
        whole_lines = text if finished else text[:text.rfind(b"\n") + 1]
        position += len(whole_lines)
        for line in whole_lines.decode("utf-8", "replace").splitlines():
            if line.strip():
                show(line.strip())
