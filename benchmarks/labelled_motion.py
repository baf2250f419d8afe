# SPDX-License-Identifier: GPL-3.0-or-later
"""What labelled micrographs tell about the motion of their particles.

The residual motion of one field blurs its signal more along one direction. Between images of the same fields, particles
lie elsewhere, which blurs the signal that is found with the labels of the clearer images.
"""
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from labelled_truth import Field, Strength, above_noise, frequency_grid, taper
from scipy.optimize import least_squares

from cryogem_scipion.engine.compute import fourier

MOTION_BANDS = (60.0, 40.0, 30.0, 25.0, 20.0)
"""Edges (Å) of the bands from which motion is fitted."""
SECTORS = 6
"""Directions, over half a turn, for the same."""


def motion(field: Field, one: Strength) -> tuple[np.ndarray, np.ndarray]:
    """Mean square displacement of a field's particles and its coefficients of cos 2θ and sin 2θ (Å²), and their errors.

    The amplitude of the signal falls as exp(−2π² displacement k²) below that of the field's first bands. So the mean
    square displacement has the map's own fall in it, and only differences between fields count.
    """
    shape = (field.image.shape[0], field.image.shape[1])
    frequency = frequency_grid(shape, field.pixel_size)
    rows, columns = torch.fft.fftfreq(shape[0])[:, None], torch.fft.rfftfreq(shape[1])
    angle = torch.atan2(*torch.broadcast_tensors(rows, columns))
    window = taper(shape)
    image, signal = (fourier.rfft2((values - values.mean()) * window) for values in (field.image.float(), one.signal))
    columns_of_fit, values, errors = [], [], []
    for low, high in pairwise(MOTION_BANDS):
        band = (frequency >= 1 / low) & (frequency < 1 / high)
        for sector in range(SECTORS):
            middle = sector * math.pi / SECTORS
            used = band & (torch.cos(2 * (angle - middle)) > math.cos(math.pi / SECTORS))
            product = (image[used] * signal[used].conj()).real.double().sum()
            square = signal[used].abs().square().double().sum()
            left = (image[used] - product / square * signal[used]).abs().square().double().sum()
            k = float((frequency[used] * signal[used].abs().square()).double().sum() / square)
            fall = -2 * math.pi**2 * k**2
            columns_of_fit.append([1.0, fall, fall * math.cos(2 * middle), fall * math.sin(2 * middle)])
            values.append(float(product / square))
            errors.append(math.sqrt(float(left) / int(used.sum()) / 2 / float(square)))
    matrix, value, error = np.array(columns_of_fit), np.array(values), np.array(errors)
    fit = least_squares(lambda unknown: (value - np.exp(matrix @ unknown)) / error,
                        [math.log(max(value[:SECTORS].mean(), 1e-6)), 0.0, 0.0, 0.0])
    return fit.x[1:], np.sqrt(np.diag(np.linalg.inv(fit.jac.T @ fit.jac)))[1:]


def displacement(clear: list[Strength], other: list[Strength]) -> tuple[float, float]:
    """Mean square displacement (Å²) of the particles along one direction in other images, and its standard error.

    Particles that lie elsewhere in other images of the same fields have lost amplitude there against the clear images,
    by exp(−2π² square k²) at the frequency k. A blur that the clear images do not have gives the same.
    """
    def mean(strengths: list[Strength]) -> tuple[np.ndarray, np.ndarray]:
        weights = np.array([1 / one.error**2 for one in strengths])
        return np.average([one.amplitude for one in strengths], axis=0, weights=weights), 1 / np.sqrt(weights.sum(0))

    (reference, reference_error), (amplitude, error) = mean(clear), mean(other)
    used = (above_noise(amplitude, error) > 0) & (amplitude > 2 * error) & (reference > 2 * reference_error)
    relative = np.hypot(error / amplitude, reference_error / reference)[used]
    columns = np.stack([np.ones(used.sum()), -2 * math.pi**2 * clear[0].frequency[used] ** 2], 1) / relative[:, None]
    covariance = np.linalg.inv(columns.T @ columns)
    solution = covariance @ columns.T @ (np.log(amplitude[used] / reference[used]) / relative)
    return float(solution[1]), math.sqrt(covariance[1, 1])


def without_displacement(strengths: list[Strength], square: float) -> list[Strength]:
    """The strengths as they would be without a mean square displacement (Å²) along each direction."""
    factor = np.exp(2 * math.pi**2 * max(square, 0.0) * strengths[0].frequency ** 2)
    return [replace(one, amplitude=one.amplitude * factor, error=one.error * factor) for one in strengths]
