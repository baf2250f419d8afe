# SPDX-License-Identifier: GPL-3.0-or-later
"""Micrographs with particles and Thon rings whose truth is known, in which everything can be measured."""
from dataclasses import dataclass, replace

import numpy as np

DEFOCI = (13000.0, 17000.0, 22000.0)
SHAPE, PIXEL_SIZE, SNR = (560, 560), 4.0, 0.2


@dataclass(frozen=True)
class Truth:
    """What a measurement has to find."""

    particles: float
    """Mean number of particles in a micrograph."""


def write_measurable(folder):
    """Write ``map/phantom.mrc`` and the micrographs ``real/*.mrc``, one for each defocus."""
    import torch

    from cryogem_scipion.engine.compute import fourier
    from cryogem_scipion.engine.io.mrc import read_mrc, write_mrc
    from cryogem_scipion.engine.settings import PhantomSettings, SimulateSettings
    from cryogem_scipion.engine.simulation.ctf import ctf
    from cryogem_scipion.engine.simulation.optics import Optics
    from cryogem_scipion.engine.stages import phantom, simulate
    phantom.run(PhantomSettings(out=folder / "map", box=56, pixel_size=4.0, diameter_angstrom=150))
    (folder / "real").mkdir()
    y, x = np.meshgrid(np.fft.fftfreq(SHAPE[0]), np.fft.rfftfreq(SHAPE[1]), indexing="ij")
    falling = torch.from_numpy(np.exp(-40 * (y**2 + x**2) / PIXEL_SIZE**2)).float()
    base, counts = Optics(300.0, 2.7, 0.1, 0.0, 0.0, 0.0), []
    for number, defocus in enumerate(DEFOCI):
        generator = torch.Generator().manual_seed(number)
        manifest = simulate.run(SimulateSettings(
            out=folder / f"clean{number}", volume=(folder / "map/phantom.mrc",), pixel_size=PIXEL_SIZE, micrographs=1,
            micrograph_size=SHAPE, particles_mean=48, particles_sigma=0, particle_distance=160, defocus_min=defocus,
            defocus_max=defocus, astigmatism_angstrom=0, b_factor_angstrom2=0, snr=SNR, seed=number))
        counts.append(manifest.particles)
        clean = torch.tensor(read_mrc(folder / f"clean{number}/micrographs/mic_000000.mrc", 2)[0])
        optics = replace(base, defocus_u_angstrom=defocus, defocus_v_angstrom=defocus)
        # White noise of which a part has passed the optics, so that there are rings.
        rings = fourier.irfft2(fourier.rfft2(torch.randn(SHAPE, generator=generator)) * ctf(SHAPE, PIXEL_SIZE, optics)
                               * falling, SHAPE)
        noise = torch.randn(SHAPE, generator=generator) + rings
        write_mrc(folder / f"real/mic_{number}.mrc", (clean + 0.05 * noise).numpy(), PIXEL_SIZE)
    return Truth(sum(counts) / len(counts))
