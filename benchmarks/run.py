# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the benchmarks one after another and writes their results into RESULTS.md, each into its own section.

    python benchmarks/run.py [NAME ...]            all that need no data, or the named ones; 'make bench' runs all
    python benchmarks/run.py NAME -- ARGUMENTS     one that needs data or other programs, with its arguments
    python benchmarks/run.py NAME:SET -- ARGUMENTS the same, into a section of its own for each data set

A benchmark prints its result to standard output as Markdown (a table, sentences), and its progress to standard error.
Its section stands between ``<!-- benchmark NAME -->`` and ``<!-- end NAME -->``. The rest of the file stays as it is.
"""
import argparse
import ast
import os
import re
import shlex
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
"""Name and command of each benchmark that needs no data from outside the repository."""
WITH_DATA = {"noise_models": "noise_models.py", "particle_signal": "particle_signal.py", "poses": "poses.py",
             "measurement": "measurement.py", "ctf_fits": "ctf_fits.py", "given_ratios": "given_ratios.py",
             "fit_errors": "fit_errors.py", "two_sample": "two_sample.py", "state_choice": "state_choice.py",
             "chain": "chain.py", "structure": "structure.py", "frame_ratio": "frame_ratio.py",
             "structure_of_picks": "structure_of_picks.py", "expert_labels": "expert_labels.py",
             "particle_power": "particle_power.py"}
"""Name and file of the benchmarks that take the paths of data and programs as arguments, or that take very long."""


def run_benchmark(command):
    """Lines that a benchmark prints, the peak memory (MB) of its largest process, and its wall time (s)."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, HERE / command[0], *command[1:]], stdout=subprocess.PIPE, text=True)
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}; its section in {RESULTS.name} stays as it was")
    return lines, usage.ru_maxrss / 1024, time.monotonic() - start


def summary(file):
    """First line of a benchmark's docstring: what it compares."""
    return (ast.get_docstring(ast.parse((HERE / file).read_text("utf-8"))) or "").partition("\n")[0]


def shown(word):
    """An argument as the section shows it: of an absolute path only the last two parts, because users have others."""
    if not str(word).startswith("/"):
        return shlex.quote(str(word))
    return shlex.quote("/".join(Path(word).parts[-2:])) if word != os.devnull else word


def section(name, command, lines, megabytes, seconds):
    """Text of one benchmark's section, with its markers."""
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    cores = len(os.sched_getaffinity(0))
    return "\n".join([
        f"<!-- benchmark {name} -->", f"### {name}", "",
        f"`python benchmarks/{' '.join(shown(word) for word in command)}`, {date}, "
        f"{cores} core{'s' * (cores > 1)}, torch {version('torch')}; "
        f"{seconds:.0f} s, peak memory {megabytes:.0f} MB.", "", summary(command[0]), "", *lines,
        f"<!-- end {name} -->"])


def replace_section(text, name, content):
    """Text of RESULTS.md with the new section in the place of the old one, or at the end."""
    pattern = re.compile(rf"<!-- benchmark {re.escape(name)} -->.*?<!-- end {re.escape(name)} -->", re.S)
    if pattern.search(text):
        return pattern.sub(lambda _: content, text)
    return f"{text.rstrip()}\n\n{content}\n"


def main():
    """Run the chosen benchmarks; write the file after each, so that a failure later loses nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME",
                        help=f"{', '.join(BENCHMARKS)}; with -- and its arguments: {', '.join(WITH_DATA)}")
    words, commands = sys.argv[1:], dict(BENCHMARKS)
    if "--" in words:
        words, arguments = words[:words.index("--")], words[words.index("--") + 1:]
        names = {word.partition(":")[0]: word for word in words}
        commands |= {names.get(name, name): [file, *arguments] for name, file in WITH_DATA.items()}
    names = parser.parse_args(words).names or list(BENCHMARKS)
    unknown = [name for name in names if name not in commands]
    if unknown:
        more = f"; with -- and its arguments: {', '.join(WITH_DATA)}"
        raise SystemExit(f"there is no benchmark {unknown[0]!r}; choose from {', '.join(BENCHMARKS)}{more}")
    for name in names:
        print(f"--- {name}", file=sys.stderr, flush=True)
        content = section(name, commands[name], *run_benchmark(commands[name]))
        RESULTS.write_text(replace_section(RESULTS.read_text("utf-8"), name, content), "utf-8")


if __name__ == "__main__":
    main()
