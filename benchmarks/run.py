# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the benchmarks one after another and writes what they print into RESULTS.md, each into its own section.

    python benchmarks/run.py [NAME ...]        all, or the named ones; 'make bench' runs all
    python benchmarks/run.py NAME -- ...       one that needs data or programs from outside, with what it is to be given

A section stands between ``<!-- benchmark NAME -->`` and ``<!-- end NAME -->``; everything else in the file stays.
"""
import os
import re
import subprocess
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"
BENCHMARKS = {
    "projection": ["projection.py"],
    "placement": ["placement.py"],
    "simulation": ["simulation.py"],
    "ice": ["ice.py", "--out", os.devnull],
    "memory": ["memory.py"],
    "training": ["training.py"],
    "scale": ["scale.py"],
}
"""Name and command of each that needs nothing from outside."""
OUTSIDE = {"world": "world.py", "kept_signal": "kept_signal.py", "poses": "poses.py"}
"""Name and file of the others, which have to be told where their data and programs are."""


def measured(command):
    """What a benchmark prints, and the peak memory (MB) of its largest process."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, HERE / command[0], *command[1:]], stdout=subprocess.PIPE, text=True)
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}; nothing of it was written")
    return lines, usage.ru_maxrss / 1024, time.monotonic() - start


def section(name, command, lines, megabytes, seconds):
    """The text of one benchmark's section."""
    when = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    cores = len(os.sched_getaffinity(0))
    return "\n".join([
        f"<!-- benchmark {name} -->", f"### {name}", "",
        f"`python benchmarks/{' '.join(command)}`, {when}, {cores} cores, torch {version('torch')}; {seconds:.0f} s, "
        f"peak memory {megabytes:.0f} MB:", "", "```", *lines, "```", f"<!-- end {name} -->"])


def put(text, name, content):
    """The text with a section in place of the former one, or at the end."""
    pattern = re.compile(rf"<!-- benchmark {re.escape(name)} -->.*?<!-- end {re.escape(name)} -->", re.S)
    if pattern.search(text):
        return pattern.sub(lambda _: content, text)
    return f"{text.rstrip()}\n\n{content}\n"


def main():
    """Run what is asked for; the file is written after each, so that nothing is lost."""
    given = sys.argv[1:]
    commands = dict(BENCHMARKS)
    if "--" in given:
        given, rest = given[:given.index("--")], given[given.index("--") + 1:]
        commands |= {name: [file, *rest] for name, file in OUTSIDE.items()}
    chosen = given or list(BENCHMARKS)
    unknown = [name for name in chosen if name not in commands]
    if unknown:
        more = f"; with -- and its arguments: {', '.join(OUTSIDE)}"
        raise SystemExit(f"there is no benchmark {unknown[0]!r}; choose from {', '.join(BENCHMARKS)}{more}")
    for name in chosen:
        print(f"--- {name}", flush=True)
        content = section(name, commands[name], *measured(commands[name]))
        RESULTS.write_text(put(RESULTS.read_text("utf-8"), name, content), "utf-8")


if __name__ == "__main__":
    main()
