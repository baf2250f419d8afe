# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes all outputs whose bytes must be reproducible. Environment variables choose the instructions of the processor.

    python -m tests.reproducible_outputs WORLD OUT

The folder WORLD holds a simulation and real micrographs, which the fixture ``world`` of the unit tests makes, and a
model.
OMP_NUM_THREADS gives the number of threads, as for the program.
"""
import sys
from pathlib import Path

from cryogem_scipion.engine.settings import ExportSettings, GenerateSettings, SimulateSettings, TrainSettings, parse
from cryogem_scipion.engine.stages import export, generate, simulate, train

ENVIRONMENTS = {
    "no vector instructions": {
        "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "NUMBA_CPU_NAME": "generic", "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX"},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
             "OPENBLAS_CORETYPE": "Haswell", "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX"},
    "this processor": {}}
"""Environment variables that let the libraries use only the instructions of an older processor."""


def make(world, out):
    """Simulate, generate with each kind of noise, train one step, and export."""
    common = {"volume": (world / "map/phantom.mrc",), "pixel_size": 6.0, "micrograph_size": (192, 224), "extract": True,
              "particles_mean": 12, "particles_sigma": 1, "particle_distance": 100.0, "snr": 0.4, "micrographs": 3}
    simulate.run(parse(SimulateSettings, {"out": out / "level", **common}))
    simulate.run(parse(SimulateSettings, {"out": out / "heights", "ice_thickness_angstrom": 500, "soft_mask": True,
                                          "symmetry": "D2", "astigmatism_angstrom": 900, **common}))
    real = [str(world / "real/*.mrc")]
    for noise, more in {"gaussian": {}, "spectrum": {"real": real},
                        "model": {"model": world / "run/model.safetensors", "precision": "float32"}}.items():
        generate.run(parse(GenerateSettings, {"simulation": world / "sim", "out": out / noise, "noise": noise,
                                              "micrographs": 3, "extract": True, "keep": ["physical"], **more}))
    # After one step the model holds the measurements of the real micrographs, and its weights are still the first.
    train.run(parse(TrainSettings, {"real": real, "simulation": world / "sim", "out": out / "measured", "steps": 1,
                                    "judge_every": 0, "precision": "float32", "crop": 64, "generator_width": 8,
                                    "discriminator_width": 8}))
    export.run(parse(ExportSettings, {"dataset": out / "spectrum", "to": "topaz", "binning": 2, "out": out / "topaz"}))
    export.run(parse(ExportSettings, {"dataset": out / "spectrum", "to": "cryodrgn", "random_shift": 3,
                                      "out": out / "cryodrgn"}))


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
