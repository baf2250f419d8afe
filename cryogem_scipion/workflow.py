# SPDX-License-Identifier: GPL-3.0-or-later
"""A Scipion project without a window: make it, run protocols in it, wait, and say what went wrong.

    project = open_project("somewhere/work", "ribosome")
    volume = run(project, "ProtImportVolumes", filesPath="/data/map.mrc", samplingRate=5.36)
    simulation = run(project, "ProtCryogemSimulate", inputVolume=(volume, "outputVolume"), micrographs=20)

Needs no Scipion installation, only its Python packages; inside one (``scipion3 python script.py``)
its configuration is used, with its queues and environments. Scipion reads paths relative to the
project, so ``open_project`` and ``run`` make the project's folder the current one.
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

__all__ = ["WorkflowError", "filled", "open_project", "rerun", "run"]

HOME = ".scipion"
ASK_SECONDS = 1.0, 30.0
"""How long to wait before a job of a queue is asked for again: at first, and at most."""


class WorkflowError(CryogemError):
    """A protocol of a workflow failed."""


def open_project(folder: str | Path, name: str) -> Any:
    """Return the project ``name`` of a workspace, made when it does not exist.

    Parameters
    ----------
    folder
        The workspace; projects go to ``folder/projects``, Scipion's own files to ``folder/.scipion``.
    name
        Name of the project. ``scipion3 project`` shows it when SCIPION_USER_DATA is ``folder``.

    Raises
    ------
    WorkflowError
        This Python has no tkinter.
    """
    # Scipion's own protocols import it, and without it Scipion merely leaves them out.
    if importlib.util.find_spec("tkinter") is None:
        raise WorkflowError(f"{sys.executable} has no tkinter, which Scipion needs; "
                            "on Debian: apt-get install python3-tk")
    workspace = Path(folder).absolute()
    _prepare(workspace)
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
        Name of the box.
    show
        Called with each line that the run has to say for people: progress, time left.
    queue
        Name of a queue in Scipion's hosts.conf, and values of its fields that are not to have their defaults: the
        protocol runs as a job of that queue, which is waited for.
    parameters
        The form's parameters. An input is ``(protocol, "outputName")``; a choice may be given by name.
        Threads of our protocols: all that this process may use, unless given.

    Raises
    ------
    WorkflowError
        The protocol failed; the message has its error and the last lines of its log.
    """
    return rerun(project, filled(project, kind, label, queue, **parameters), show)


def filled(project: Any, kind: str, label: str = "", queue: tuple[str, dict[str, str]] | None = None,
           **parameters: Any) -> Any:
    """Return a new protocol with its form filled in, not run yet; see ``run``."""
    protocols = project.getDomain().getProtocols()
    if kind not in protocols:
        raise WorkflowError(f"Scipion knows no protocol {kind!r}; install its plugin, or correct the name")
    protocol = project.newProtocol(protocols[kind])
    protocol.setObjLabel(label or protocols[kind].getClassLabel(False))
    if kind.startswith("ProtCryogem"):
        parameters = {"numberOfThreads": len(os.sched_getaffinity(0)), **parameters}
    for name, value in parameters.items():
        _set(protocol, name, value)
    if queue:
        _queue(project, protocol, *queue)
    return protocol


def rerun(project: Any, protocol: Any, show: Callable[[str], None] = print) -> Any:
    """Run a protocol that is new, or again as its run mode says; see ``run``."""
    os.chdir(project.path)  # Scipion's paths are relative to it, and another project may have been opened since.
    problems = protocol.validate()
    if problems:
        raise WorkflowError(f"{protocol.getObjLabel()}: {'; '.join(problems)}")
    if not protocol.hasObjId():
        project.saveProtocol(protocol)  # Gives it a folder, and so a log to follow.
    done = threading.Event()
    tail = threading.Thread(target=_follow, args=(Path(project.path), protocol, done, show), daemon=True)
    tail.start()
    try:
        project.launchProtocol(protocol, wait=True)
        _await(project, protocol)
    finally:
        done.set()
        tail.join()
    if not protocol.isFinished():
        last = [line for number in (0, 1) for line in protocol.getLogsLastLines(5, number)]
        text = "\n".join([f"{protocol.getObjLabel()} {protocol.getStatus()}: {protocol.getErrorMessage()}", *last])
        raise WorkflowError(re.sub(r"\x1b\[\d+m", "", text))  # without Scipion's colours
    return protocol


def _prepare(workspace: Path) -> None:
    """Make the folders and settings that a Scipion installation would give, where there is none."""
    home = workspace / HOME
    if Path(os.environ.get("SCIPION_HOME", home)).name != HOME:
        return  # Scipion's own.
    (home / "config").mkdir(parents=True, exist_ok=True)
    hosts = home / "config" / "hosts.conf"
    settings = {"SCIPION_HOME": home, "SCIPION_USER_DATA": workspace, "SCIPION_LOGS": home / "logs",
                "SCIPION_HOSTS": hosts, "SCIPION_SOFTWARE": home / "software", "SCIPION_TESTS": home / "tests"}
    os.environ.update({name: str(value) for name, value in settings.items()})
    os.environ.update(SCIPION_PYTHON=sys.executable, SCIPION_DOMAIN="pwem", SCIPION_NOTIFY="False")
    # A protocol runs in a process of its own, which has to find this package and no other copy of it.
    here = str(Path(__file__).parent.parent)
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if _is_checkout(here) and here not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, *known]))
    import pyworkflow

    # Where somebody else imported Scipion first, it has read the environment already.
    pyworkflow.PYTHON = sys.executable
    for name, value in settings.items():
        setattr(pyworkflow.Config, name, str(value))
    pyworkflow.Config.SCIPION_DOMAIN = "pwem"
    from pyworkflow.protocol import HostConfig
    if not hosts.exists():
        HostConfig.writeBasic(str(hosts))


def _is_checkout(folder: str) -> bool:
    return (Path(folder) / "setup.py").is_file()


def _set(protocol: Any, name: str, value: Any) -> None:
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


def _queue(project: Any, protocol: Any, name: str, values: dict[str, str]) -> None:
    """Make the protocol a job of a queue; what is not given of the queue's fields has its default."""
    queues = project.getHostConfig(protocol.getHostName()).getQueueSystem().getQueues() or {}
    if name not in queues:
        raise WorkflowError(f"hosts.conf has no queue {name!r}; give one of: {', '.join(queues) or 'none is defined'}")
    fields = {field[0]: field[1] for field in queues[name]}
    unknown = [field for field in values if field not in fields]
    if unknown:
        raise WorkflowError(f"queue {name!r} has no field {unknown[0]!r}; give one of: {', '.join(fields)}")
    protocol._useQueue.set(True)
    protocol.setQueueParams([name, {**fields, **values}])


def _await(project: Any, protocol: Any) -> None:
    """Wait for a job of a queue; other protocols have ended when they come back from being launched."""
    if not protocol.useQueueForProtocol():
        return
    pause, longest = ASK_SECONDS
    while protocol.isActive():
        time.sleep(pause)
        pause = min(1.2 * pause, longest)
        project._updateProtocol(protocol)
    # A job that ended between two questions, of the protocol and of the queue, counts as lost until it is asked again.
    project._updateProtocol(protocol)


def _follow(project: Path, protocol: Any, done: threading.Event, show: Callable[[str], None]) -> None:
    """Pass on what the engine says, while it says it."""
    path = project / protocol.getStderrLog()
    position = path.stat().st_size if path.exists() else 0
    finished = False
    while not finished:
        finished = done.wait(0.5)
        if not path.exists():
            continue
        with path.open("rb") as file:
            file.seek(position)
            text = file.read()
        whole = text if finished else text[:text.rfind(b"\n") + 1]
        position += len(whole)
        for line in whole.decode("utf-8", "replace").splitlines():
            if line.strip():
                show(line.strip())
