# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a report: its numbers (JSON), the arrays of its figure (npz), and the figure (PNG)."""
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cryogem_scipion.engine.errors import DataError
from cryogem_scipion.engine.io.dataset import replacing

__all__ = ["read_report", "save_figure", "thumbnail", "write_report"]


def write_report(folder: Path, name: str, report: dict[str, Any], arrays: dict[str, Any]) -> None:
    """Write ``name.json`` and ``name.npz``.

    Parameters
    ----------
    folder
        Folder of the report.
    name
        Name of the files, without suffix.
    report
        Numbers and texts; None is written as ``null``.
    arrays
        Arrays of the figure.

    Raises
    ------
    ValueError
        A number of the report is not finite.
    """
    with replacing(folder / f"{name}.npz") as path, path.open("wb") as file:
        np.savez_compressed(file, **arrays)
    with replacing(folder / f"{name}.json") as path:
        path.write_text(json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False) + "\n", "utf-8")


def read_report(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return report and arrays, as ``write_report`` wrote them.

    Raises
    ------
    DataError
        A file of the report is missing or damaged.
    """
    try:
        report = json.loads((folder / f"{name}.json").read_text("utf-8"))
        with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
            return report, {key: file[key] for key in file.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{folder} has no complete report {name} ({error}); evaluate again") from None


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def thumbnail(image: Any, max_edge: int = 900) -> Any:
    """Return an image (y, x) as uint8, reduced by block averages to at most ``max_edge`` pixels along each edge."""
    step = max(1, -(-max(image.shape) // max_edge))
    height, width = (edge // step * step for edge in image.shape)
    blocks = image[:height, :width].reshape(height // step, step, width // step, step).mean((1, 3))
    low, high = np.percentile(blocks, (0.5, 99.5))
    return (np.clip((blocks - low) / max(high - low, 1e-12), 0, 1) * 255).astype(np.uint8)
