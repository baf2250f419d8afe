# SPDX-License-Identifier: GPL-3.0-or-later
"""Conformations from a cryoDRGN result folder, decoded by cryoDRGN itself in its own environment.

The files of cryoDRGN are pickles, and reading a pickle runs the code in it. Therefore this process reads only the names
of the files. Their content is read in cryoDRGN's environment: by a small program (``cryodrgn_latents.py``) and by
``cryodrgn eval_vol``.
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

__all__ = ["CRYODRGN_ENV_ACTIVATION", "SpecimenFiles", "specimen_files"]

CRYODRGN_ENV_ACTIVATION = "CRYODRGN_ENV_ACTIVATION"
RECORD = "conformations.json"

log = logging.getLogger("cryogem")


@dataclass(frozen=True)
class SpecimenFiles:
    """Settings of a simulation in which every map is a file."""

    settings: SimulateSettings
    provenance: dict[Path, str]
    """For each decoded map, where it comes from, in words."""
    record_files: tuple[Path, ...] = ()
    """Files that record how the maps were decoded."""


@contextmanager
def specimen_files(settings: SimulateSettings) -> Iterator[SpecimenFiles]:
    """Yield the settings with a cryoDRGN folder replaced by maps decoded from it; their files exist inside the block.

    If an interrupted run has left its maps in ``settings.out``, those are used and cryoDRGN is not needed.

    Raises
    ------
    DataError
        The folder is not a cryoDRGN result folder, or cryoDRGN fails.
    SettingsError
        cryoDRGN's environment or the pixel size is not known.

    References
    ----------
    cryoDRGN: doi:10.1038/s41592-020-01049-4
    """
    if settings.cryodrgn_folder is None:
        yield SpecimenFiles(settings, {})
        return
    with tempfile.TemporaryDirectory(prefix="cryogem-") as temporary:
        folder = Path(temporary)
        maps = [folder / f"conformation_{number:03d}.mrc" for number in range(1, settings.cryodrgn_conformations + 1)]
        if not _restore(settings.out / "source", [*maps, folder / RECORD]):
            _decode(settings, settings.cryodrgn_folder, maps, folder)
        record = json.loads((folder / RECORD).read_text("utf-8"))
        origins = {file: f"{record['weights']}, particle {particle + 1}"
                   for file, particle in zip(maps, record["particles"], strict=True)}
        origins[folder / RECORD] = str(settings.cryodrgn_folder)
        resolved = settings.model_copy(update={"volume": tuple(maps), "cryodrgn_folder": None, "cryodrgn_epoch": None})
        yield SpecimenFiles(resolved, origins, (folder / RECORD,))


def _restore(source: Path, files: list[Path]) -> bool:
    """Copy the files of an interrupted run from its folder ``source``; false if one is missing."""
    saved = [next(source.glob(f"[0-9]*_{file.name}"), None) for file in files]
    if None in saved:
        return False
    for path, file in zip(saved, files, strict=True):
        shutil.copyfile(path, file)  # type: ignore[arg-type]
    return True


def _decode(settings: SimulateSettings, folder: Path, maps: list[Path], work_folder: Path) -> None:
    """Draw latent coordinates of particles and decode them into the files ``maps``."""
    weights, latents = _checkpoint_files(folder, settings.cryodrgn_epoch)
    log.warning("warning: %s has pickle files, and reading them can run code; use only folders that you trust", folder)
    program = Path(__file__).with_name("cryodrgn_latents.py")
    drawn_file = work_folder / "drawn.json"
    _run(settings, ["python", program, folder, latents, len(maps), settings.seed, drawn_file])
    latents_record = json.loads(drawn_file.read_text("utf-8"))
    pixel_size = settings.volume_pixel_size or latents_record["pixel_size"]
    if pixel_size is None:
        raise SettingsError(f"{folder} does not give the pixel size: its CTF file is missing; set volume_pixel_size")
    lines = [" ".join(map(repr, row)) + "\n" for row in latents_record["latents"]]
    (work_folder / "z.txt").write_text("".join(lines), "ascii")
    log.info("decoding %d conformations with cryoDRGN", len(maps))
    _run(settings, ["cryodrgn", "eval_vol", weights, "-c", folder / "config.yaml", "--zfile", work_folder / "z.txt",
                    "--Apix", pixel_size, "-o", work_folder / "decoded"])
    decoded = sorted((work_folder / "decoded").glob("*.mrc"))
    if len(decoded) != len(maps):
        raise DataError(f"cryoDRGN decoded {len(decoded)} of {len(maps)} maps from {weights}; check its version")
    for decoded_map, file in zip(decoded, maps, strict=True):
        decoded_map.rename(file)
    record = {"weights": str(weights), "seed": settings.seed, **latents_record}
    (work_folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", "utf-8")


def _checkpoint_files(folder: Path, epoch: int | None) -> tuple[Path, Path]:
    """Files of the weights and of the latent coordinates of an epoch; of the last epoch if None."""
    if not (folder / "config.yaml").is_file():
        raise DataError(f"{folder} has no config.yaml; give the folder that cryodrgn train_vae wrote (-o)")
    if epoch is None:
        last = folder / "weights.pkl", folder / "z.pkl"
        if all(path.is_file() for path in last):
            return last
    epochs = sorted(int(path.name.split(".")[1]) for path in folder.glob("weights.*.pkl")
                    if path.name.split(".")[1].isdigit() and (folder / f"z.{path.name.split('.')[1]}.pkl").is_file())
    if not epochs or (epoch is not None and epoch not in epochs):
        missing = "weights and z" if epoch is None else f"weights.{epoch}.pkl and z.{epoch}.pkl"
        available = f"epochs {', '.join(map(str, epochs))}" if epochs else "none"
        raise DataError(f"{folder} has no {missing} (it has {available} with both files); give another cryodrgn_epoch")
    number = epochs[-1] if epoch is None else epoch
    return folder / f"weights.{number}.pkl", folder / f"z.{number}.pkl"


def _run(settings: SimulateSettings, command: list[Any]) -> None:
    """Run a program in cryoDRGN's environment; a ``DataError`` quotes its last line of output if it fails."""
    activation = settings.cryodrgn_activation or os.environ.get(CRYODRGN_ENV_ACTIVATION, "")
    if not activation:
        raise SettingsError("the environment of cryoDRGN is not known; set cryodrgn_activation, or the variable "
                            f"{CRYODRGN_ENV_ACTIVATION}, to the command that activates it")
    line = f"{activation} && {shlex.join(map(str, command))}"
    try:
        process = subprocess.run(["bash", "-c", line], env=_environment(settings.device), capture_output=True,
                                 text=True, errors="replace")
    except OSError as error:
        raise DataError(f"cryoDRGN cannot be started ({error.strerror}); install bash") from None
    log.debug("%s%s", process.stdout, process.stderr)
    if process.returncode:
        output = process.stderr.strip() or process.stdout.strip() or f"status {process.returncode}"
        last_line = output.splitlines()[-1]
        raise DataError(f"cryoDRGN failed ({last_line}) in the environment of '{activation}'; check the folder "
                        f"{settings.cryodrgn_folder} and the environment")


def _environment(device: str) -> dict[str, str]:
    """Environment variables of this process, without the paths of its Python and with the chosen device only."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    elif device.startswith("cuda:"):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        number = device.partition(":")[2]
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[int(number)] if visible else number
    return environment
