# SPDX-License-Identifier: GPL-3.0-or-later
"""Contrast transfer function (CTF) and its application; lengths are Å, underfocus is positive."""
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numba
import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.errors import SettingsError
from cryogem_scipion.engine.simulation.envelope import Envelope, envelope_plane
from cryogem_scipion.engine.simulation.motion import motion_plane
from cryogem_scipion.engine.simulation.optics import Optics, electron_wavelength, phase_terms, phase_turns

__all__ = [
    "Measured",
    "Optics",
    "apply_ctf",
    "at_height",
    "choose_measured",
    "ctf",
    "delocalisation_margin",
    "draw_optics",
    "electron_wavelength",
    "fast_shape",
]

Measured = TypeVar("Measured")
"""A measured microscope state: optics or motion."""

MAX_MARGIN = 1024  # pixels; a wider margin costs more time than the weak ripples outside it are worth


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _ctf_kernel(frequency_y, frequency_x, a, b, c, d, e, decay, out):  # type: ignore[no-untyped-def]
    """Write the CTF into ``out``: the phase is computed in float64 and reduced to half a turn, the sine in float32."""
    for row in range(frequency_y.size):
        y = frequency_y[row]
        y2 = y * y
        for column in range(frequency_x.size):
            x = frequency_x[column]
            x2 = x * x
            u2 = x2 + y2
            turns = (a + d * u2) * u2 + b * (x2 - y2) + c * x * y + e
            half = 2.0 * turns
            nearest = np.floor(half + 0.5)
            angle = np.pi * (half - nearest)
            # Taylor series of the sine on [-π/2, π/2]; the first term left out is below 6e-8 (one step of float32).
            q = angle * angle
            sine = angle * (1 + q * (-1 / 6 + q * (1 / 120 + q * (-1 / 5040 + q * (1 / 362880 - q / 39916800)))))
            parity = nearest - 2.0 * np.floor(0.5 * nearest)
            out[row, column] = (1.0 - 2.0 * parity) * sine
        if decay != 0.0:
            for column in range(frequency_x.size):
                x = frequency_x[column]
                out[row, column] *= np.exp(-decay * (x * x + y2))


def _frequencies(shape: tuple[int, int], pixel_size: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if min(shape) < 1:
        raise SettingsError(f"image size is {shape} pixels; give 1 or more for both sides")
    if not 0 < pixel_size < math.inf:
        raise SettingsError(f"pixel size is {pixel_size} Å; give a positive number")
    return np.fft.fftfreq(shape[0], pixel_size), np.fft.rfftfreq(shape[1], pixel_size)


def ctf(
    shape: tuple[int, int], pixel_size: float, optics: Optics, device: torch.device | str | None = None
) -> Float[Tensor, "y xh"]:
    """Contrast transfer function of a weak phase object.

    sin(π λ Δf u² − ½ π Cs λ³ u⁴ + asin(w) + phase) · exp(−B u² / 4) · envelope(u) · motion(u, θ), with
    Δf = ½ (U + V) + ½ (U − V) cos 2(θ − angle) and θ = atan2(ky, kx).

    Parameters
    ----------
    shape
        Image size (y, x) in pixels, odd or even.
    pixel_size
        Å per pixel.
    optics
        One realised microscope state; underfocus is positive.
    device
        Device of the result; the CPU by default.

    Returns
    -------
    Values in [-1, 1] times envelope and motion, float32, on the half plane of ``rfft2``: zero frequency at ``[0, 0]``.

    Raises
    ------
    SettingsError
        An empty shape or a pixel size that is not positive.

    References
    ----------
    doi:10.1016/j.jsb.2015.08.008
    """
    frequency_y, frequency_x = _frequencies(shape, pixel_size)
    decay = 0.25 * optics.b_factor_angstrom2
    target = torch.device("cpu" if device is None else device)
    if target.type == "cpu":
        out = np.empty((frequency_y.size, frequency_x.size), np.float32)
        _ctf_kernel(frequency_y, frequency_x, *phase_terms(optics), decay, out)
        if optics.envelope:
            out *= envelope_plane(optics.envelope, shape, pixel_size)
        if optics.motion:
            out *= motion_plane(optics.motion, shape, pixel_size)
        return torch.from_numpy(out)
    y = torch.from_numpy(frequency_y).to(target)[:, None]
    x = torch.from_numpy(frequency_x).to(target)
    turns = phase_turns(optics, y, x)
    values = torch.sin(2 * math.pi * (turns - turns.round()))
    values = (values * torch.exp(-decay * (x * x + y * y))).to(torch.float32)
    if optics.envelope:
        values *= torch.tensor(envelope_plane(optics.envelope, shape, pixel_size), device=target)
    if optics.motion:
        values *= torch.tensor(motion_plane(optics.motion, shape, pixel_size), device=target)
    return values


def apply_ctf(
    image: Float[Tensor, "*batch y x"], pixel_size: float, optics: Optics, margin: int = 0
) -> Float[Tensor, "*batch y2 x2"]:
    """Convolve an image with the CTF's point spread function.

    The convolution is circular. Either pad the image first (``delocalisation_margin``), or give a ``margin``.

    Parameters
    ----------
    image
        One image, or several with the same microscope state.
    pixel_size
        Å per pixel.
    optics
        One realised microscope state.
    margin
        Pixels to cut from every side of the result.

    Returns
    -------
    CTF ⊗ image, with the dtype and device of the image.

    Raises
    ------
    SettingsError
        The margin leaves no pixel, or the pixel size is not positive.
    """
    if not (margin >= 0 and 2 * margin < min(image.shape[-2:])):
        size = tuple(image.shape[-2:])
        raise SettingsError(f"margin is {margin} pixels, and the image of {size} pixels is too small for it; give less")
    shape = (int(image.shape[-2]), int(image.shape[-1]))
    ctf_values = ctf(shape, pixel_size, optics, image.device)
    result = apply_filter(image, ctf_values)
    return result[..., margin : shape[0] - margin, margin : shape[1] - margin]


def apply_filter(
    image: Float[Tensor, "*batch y x"], filter_values: Float[Tensor, "*batch y xh"]
) -> Float[Tensor, "*batch y x"]:
    """Multiply the spectrum of real images by real values.

    Parameters
    ----------
    image
        One image, or several.
    filter_values
        Factors on the half plane of ``rfft2``, such as those of ``ctf``.

    Returns
    -------
    Filtered images, with the dtype and device of the input.
    """
    spectrum = fourier.rfft2(image).mul_(filter_values.to(image.dtype))
    return fourier.irfft2(spectrum, (image.shape[-2], image.shape[-1]))


def delocalisation_margin(pixel_size: float, optics: Optics) -> int:
    """Distance in pixels over which the CTF spreads an object: the padding that keeps ripples from wrapping around.

    The CTF displaces a frequency u by dχ/du / (2π) = λ Δf u − Cs λ³ u³ (Å). The margin is the largest displacement of
    any frequency in the image, up to the corner of its spectrum, plus eight pixels for the cut at Nyquist. It is at
    most 1024.

    Parameters
    ----------
    pixel_size
        Å per pixel.
    optics
        One realised microscope state.

    Raises
    ------
    SettingsError
        The pixel size is not positive.
    """
    _frequencies((1, 1), pixel_size)
    wavelength = electron_wavelength(optics.voltage_kv)
    highest = math.sqrt(0.5) / pixel_size
    defoci = (optics.defocus_u_angstrom, optics.defocus_v_angstrom)
    u = np.linspace(0, highest, 257)
    spread = max(np.abs(wavelength * df * u - optics.cs_mm * 1e7 * wavelength**3 * u**3).max() for df in defoci)
    return int(min(math.ceil(spread / pixel_size) + 8, MAX_MARGIN))


def fast_shape(shape: tuple[int, int], margin: int) -> tuple[int, int]:
    """Smallest size (y, x) with a fast Fourier transform that holds ``shape`` and ``margin`` pixels on every side."""
    y, x = (fourier.fast_length(size + 2 * margin) for size in shape)
    return y, x


def draw_optics(
    generator: torch.Generator,
    *,
    defocus_min_angstrom: float,
    defocus_max_angstrom: float,
    astigmatism_max_angstrom: float = 0.0,
    voltage_kv: float = 300.0,
    cs_mm: float = 2.7,
    amplitude_contrast: float = 0.1,
    phase_shift_degrees: float = 0.0,
    b_factor_angstrom2: float = 0.0,
    envelope: Envelope = (),
) -> Optics:
    """Draw a microscope state; mean defocus, astigmatism U − V ≥ 0 and its angle are uniform in their ranges.

    Parameters
    ----------
    generator
        Random generator; three numbers are drawn.
    defocus_min_angstrom, defocus_max_angstrom
        Range of the mean defocus; underfocus is positive.
    astigmatism_max_angstrom
        Upper limit of U − V; the lower limit is 0.
    voltage_kv, cs_mm, amplitude_contrast, phase_shift_degrees, b_factor_angstrom2, envelope
        As in ``Optics``; not random.

    Raises
    ------
    SettingsError
        The defocus range is reversed, or the astigmatism is negative.
    """
    if not defocus_min_angstrom <= defocus_max_angstrom:
        raise SettingsError(
            f"defocus range runs from {defocus_min_angstrom} to {defocus_max_angstrom} Å; give the smaller value first"
        )
    if astigmatism_max_angstrom < 0:
        raise SettingsError(f"astigmatism is {astigmatism_max_angstrom} Å; give 0 or more")
    draw = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    mean = defocus_min_angstrom + draw[0] * (defocus_max_angstrom - defocus_min_angstrom)
    half = 0.5 * draw[1] * astigmatism_max_angstrom
    return Optics(
        voltage_kv=voltage_kv,
        cs_mm=cs_mm,
        amplitude_contrast=amplitude_contrast,
        defocus_u_angstrom=mean + half,
        defocus_v_angstrom=mean - half,
        defocus_angle_degrees=180.0 * draw[2],
        phase_shift_degrees=phase_shift_degrees,
        b_factor_angstrom2=b_factor_angstrom2,
        envelope=envelope,
    )


def choose_measured(generator: torch.Generator, measured: Sequence[Measured], place: int) -> Measured:
    """Return the measured microscope state (CTF, motion) at a place of a random order, in which each one comes once.

    Micrographs that take one place after another use all states equally often, so that a few micrographs already have
    the same mean spectrum as the measured ones.

    Parameters
    ----------
    generator
        Random generator, which determines the order.
    measured
        Microscope states to choose from.
    place
        Place in the order, from 0.

    Raises
    ------
    SettingsError
        There is no state to choose from.
    """
    if not measured:
        raise SettingsError("no measured CTF to draw from; give at least one, or a defocus range")
    return measured[int(torch.randperm(len(measured), generator=generator)[place])]


def at_height(optics: Optics, height_angstrom: float) -> Optics:
    """Microscope state for an object at another height.

    Parameters
    ----------
    optics
        Microscope state at height 0.
    height_angstrom
        Height of the object, positive towards the electron source; the underfocus is smaller by this amount.
    """
    return replace(
        optics,
        defocus_u_angstrom=optics.defocus_u_angstrom - height_angstrom,
        defocus_v_angstrom=optics.defocus_v_angstrom - height_angstrom,
    )
