# SPDX-License-Identifier: GPL-3.0-or-later
"""Conformations from a cryoDRGN result folder, decoded by cryoDRGN itself in its own environment.

Its files are pickles: reading one runs what it holds as code. So nothing of the folder is read by this process but
names; a small program of ours (``cryodrgn_latents.py``) and ``cryodrgn eval_vol`` read it, under cryoDRGN's own Python.
"""
import json
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryogem_scipion.engine.errors import DataError, SettingsError
from cryogem_scipion.engine.settings import SimulateSettings

__all__ = ["CRYODRGN_ENV_ACTIVATION", "Specimens", "specimens"]

CRYODRGN_ENV_ACTIVATION = "CRYODRGN_ENV_ACTIVATION"
RECORD = "conformations.json"

log = logging.getLogger("cryogem")


@dataclass(frozen=True)
class Specimens:
    """The settings with every specimen a file."""

    settings: SimulateSettings
    origins: dict[Path, str]
    """Of files that were made: what from."""
    records: tuple[Path, ...] = ()
    """Files that tell how they were made."""


@contextmanager
def specimens(settings: SimulateSettings) -> Iterator[Specimens]:
    """Give the settings with a cryoDRGN folder replaced by maps decoded from it, which vanish when the block ends.

    An interrupted run in ``settings.out`` goes on with the maps that it has in ``source/``.

    Raises
    ------
    DataError
        The folder is not one of cryoDRGN, or cryoDRGN fails.
    SettingsError
        cryoDRGN's environment or the pixel size is not known.
    """
    if settings.cryodrgn_folder is None:
        yield Specimens(settings, {})
        return
    with tempfile.TemporaryDirectory(prefix="cryogem-") as name:
        place = Path(name)
        maps = [place / f"conformation_{number:03d}.mrc" for number in range(1, settings.cryodrgn_conformations + 1)]
        if not _kept(settings.out / "source", [*maps, place / RECORD]):
            _decode(settings, settings.cryodrgn_folder, maps, place)
        record = json.loads((place / RECORD).read_text("utf-8"))
        origins = {file: f"{record['weights']}, particle {particle + 1}"
                   for file, particle in zip(maps, record["particles"], strict=True)}
        origins[place / RECORD] = str(settings.cryodrgn_folder)
        given = settings.model_copy(update={"volume": tuple(maps), "cryodrgn_folder": None, "cryodrgn_epoch": None})
        yield Specimens(given, origins, (place / RECORD,))


def _kept(source: Path, files: list[Path]) -> bool:
    """Take over what an interrupted run has of all the files; false when one is missing."""
    found = [next(source.glob(f"[0-9]*_{file.name}"), None) for file in files]
    if None in found:
        return False
    for path, file in zip(found, files, strict=True):
        shutil.copyfile(path, file)  # type: ignore[arg-type]
    return True


def _decode(settings: SimulateSettings, folder: Path, maps: list[Path], place: Path) -> None:
    """Draw latent coordinates and decode them into ``maps``."""
    weights, latents = _checkpoint(folder, settings.cryodrgn_epoch)
    log.warning("warning: %s holds pickles, which are run as code while they are read; use only folders that you trust",
                folder)
    program = Path(__file__).with_name("cryodrgn_latents.py")
    record = place / "drawn.json"
    _run(settings, ["python", program, folder, latents, len(maps), settings.seed, record])
    drawn = json.loads(record.read_text("utf-8"))
    pixel_size = settings.volume_pixel_size or drawn["pixel_size"]
    if pixel_size is None:
        raise SettingsError(f"{folder} does not tell the pixel size: its CTF file is gone; set volume_pixel_size")
    (place / "z.txt").write_text("".join(" ".join(map(repr, row)) + "\n" for row in drawn["latents"]), "ascii")
    log.info("decoding %d conformations with cryoDRGN", len(maps))
    _run(settings, ["cryodrgn", "eval_vol", weights, "-c", folder / "config.yaml", "--zfile", place / "z.txt",
                    "--Apix", pixel_size, "-o", place / "decoded"])
    decoded = sorted((place / "decoded").glob("*.mrc"))
    if len(decoded) != len(maps):
        raise DataError(f"cryoDRGN made {len(decoded)} of {len(maps)} maps of {weights}; look at its version")
    for made, file in zip(decoded, maps, strict=True):
        made.rename(file)
    (place / RECORD).write_text(json.dumps({"weights": str(weights), "seed": settings.seed, **drawn}, indent=2) + "\n",
                                "utf-8")


def _checkpoint(folder: Path, epoch: int | None) -> tuple[Path, Path]:
    """The weights and latent coordinates of an epoch; of the last one when none is asked for."""
    if not (folder / "config.yaml").is_file():
        raise DataError(f"{folder} has no config.yaml; give the folder that cryodrgn train_vae wrote (-o)")
    if epoch is None:
        last = folder / "weights.pkl", folder / "z.pkl"
        if all(path.is_file() for path in last):
            return last
    both = sorted(int(path.name.split(".")[1]) for path in folder.glob("weights.*.pkl")
                  if path.name.split(".")[1].isdigit() and (folder / f"z.{path.name.split('.')[1]}.pkl").is_file())
    if not both or (epoch is not None and epoch not in both):
        wanted = "weights and z" if epoch is None else f"weights.{epoch}.pkl and z.{epoch}.pkl"
        has = f"epochs {', '.join(map(str, both))}" if both else "none"
        raise DataError(f"{folder} has no {wanted} (of single epochs it has {has}); give another cryodrgn_epoch")
    number = both[-1] if epoch is None else epoch
    return folder / f"weights.{number}.pkl", folder / f"z.{number}.pkl"


def _run(settings: SimulateSettings, command: list[Any]) -> None:
    """Run a program in cryoDRGN's environment; ``DataError`` with its last words when it fails."""
    activation = settings.cryodrgn_activation or os.environ.get(CRYODRGN_ENV_ACTIVATION, "")
    if not activation:
        raise SettingsError("the environment of cryoDRGN is not known; set cryodrgn_activation, or the variable "
                            f"{CRYODRGN_ENV_ACTIVATION}, to the command that activates it")
    line = f"{activation} && {shlex.join(map(str, command))}"
    try:
        done = subprocess.run(["bash", "-c", line], env=_environment(settings.device), capture_output=True, text=True,
                              errors="replace")
    except OSError as error:
        raise DataError(f"cryoDRGN cannot be started ({error.strerror}); install bash") from None
    log.debug("%s%s", done.stdout, done.stderr)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1]
        raise DataError(f"cryoDRGN failed ({said}) in the environment of '{activation}'; check the folder "
                        f"{settings.cryodrgn_folder} and the environment")


def _environment(device: str) -> dict[str, str]:
    """This process's environment without its Python's packages, and with the chosen device alone."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    elif device.startswith("cuda:"):
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        number = device.partition(":")[2]
        environment["CUDA_VISIBLE_DEVICES"] = seen.split(",")[int(number)] if seen else number
    return environment
