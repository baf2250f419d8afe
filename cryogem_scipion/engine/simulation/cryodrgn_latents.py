# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in cryoDRGN's environment, by its Python: draws conformations from a result folder's latent distribution.

    python cryodrgn_latents.py FOLDER Z_FILE COUNT SEED OUT.json

It is a program of its own because the folder's files are pickles, which run what they hold as code when they are
read. It knows nothing of this package, only NumPy, PyYAML and, where the pickles hold tensors, torch.
"""
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np


def drawn(latents: Any, count: int, seed: int) -> Any:
    """Return the rows of ``count`` particles drawn at random, none twice while there are enough."""
    return np.random.default_rng(seed).choice(len(latents), size=count, replace=len(latents) < count)


def pixel_size(config: dict[str, Any]) -> float | None:
    """Return the pixel size (Å) of the volumes that the network decodes; None where its CTF file is gone."""
    path = (config.get("dataset_args") or {}).get("ctf") or config.get("ctf")
    if not path or not Path(path).is_file():
        return None
    edge, size = _pickled(Path(path))[0][:2]  # of the images that the CTFs were written for
    return float(size) * float(edge) / (int(config["lattice_args"]["D"]) - 1)


def main() -> None:
    """Write the chosen particles, their latent coordinates and the pixel size as JSON."""
    folder, file, count, seed, out = sys.argv[1:]
    import yaml  # type: ignore[import-untyped]
    config = yaml.safe_load((Path(folder) / "config.yaml").read_text("utf-8"))
    latents = np.asarray(_pickled(Path(file)), np.float64)
    if latents.ndim != 2 or not latents.size or not np.isfinite(latents).all():
        sys.exit(f"{file} holds no latent coordinates, but numbers of shape {latents.shape}")
    particles = drawn(latents, int(count), int(seed))
    Path(out).write_text(json.dumps({
        "particles": particles.tolist(), "latents": latents[particles].tolist(), "pixel_size": pixel_size(config)}))


def _pickled(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)


if __name__ == "__main__":
    main()
