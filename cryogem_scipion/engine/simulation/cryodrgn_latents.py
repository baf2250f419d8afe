# SPDX-License-Identifier: GPL-3.0-or-later
"""Program for cryoDRGN's environment: draws particles of a result folder and writes their latent coordinates.

    python cryodrgn_latents.py FOLDER Z_FILE COUNT SEED OUT.json

It is a separate program because the folder's files are pickles, and reading a pickle runs the code in it. It imports
nothing of this package; it needs NumPy, PyYAML and, if the pickles hold tensors, torch.
"""
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np


def draw_particles(latents: Any, count: int, seed: int) -> Any:
    """Return the row numbers of ``count`` particles drawn at random, without repetition if there are enough."""
    return np.random.default_rng(seed).choice(len(latents), size=count, replace=len(latents) < count)


def pixel_size(config: dict[str, Any]) -> float | None:
    """Return the pixel size (Å) of the volumes that the network decodes; None if its CTF file does not exist."""
    path = (config.get("dataset_args") or {}).get("ctf") or config.get("ctf")
    if not path or not Path(path).is_file():
        return None
    edge, size = _read_pickle(Path(path))[0][:2]  # edge (px) and pixel size (Å) of the original images
    return float(size) * float(edge) / (int(config["lattice_args"]["D"]) - 1)


def main() -> None:
    """Write the drawn particles, their latent coordinates and the pixel size as JSON."""
    folder, file, count, seed, out = sys.argv[1:]
    import yaml  # type: ignore[import-untyped]
    config = yaml.safe_load((Path(folder) / "config.yaml").read_text("utf-8"))
    latents = np.asarray(_read_pickle(Path(file)), np.float64)
    if latents.ndim != 2 or not latents.size or not np.isfinite(latents).all():
        sys.exit(f"{file} does not hold latent coordinates, but an array of shape {latents.shape}")
    particles = draw_particles(latents, int(count), int(seed))
    Path(out).write_text(json.dumps({
        "particles": particles.tolist(), "latents": latents[particles].tolist(), "pixel_size": pixel_size(config)}))


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)


if __name__ == "__main__":
    main()
