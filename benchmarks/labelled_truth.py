# SPDX-License-Identifier: GPL-3.0-or-later
"""What labelled micrographs tell about their particles: signal-to-noise ratio, envelope, distance.

The signal of a micrograph is known but for its strength: projections of the map at the labels, through the CTF. In each
band of spatial frequency, least squares give the strength of the signal in the micrograph. What is left is noise. Where
the labels have no orientations, they are found first: each labelled place is matched with projections in many
orientations and at neighbouring pixels.
"""
import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from cryogem_scipion.engine.compute import fourier
from cryogem_scipion.engine.simulation.composition import compose, projection_masks, subpixel_shifts
from cryogem_scipion.engine.simulation.ctf import Optics, apply_filter, ctf
from cryogem_scipion.engine.simulation.microscope import seeded_generator
from cryogem_scipion.engine.simulation.poses import uniform_rotations
from cryogem_scipion.engine.simulation.projection import Projector, project

ORIENTATIONS = 300
"""Random orientations that are matched; of a particle with 24 equivalent ones they are 13° apart."""
REACH = 5
"""Pixels around a label within which its particle is searched; experts' marks are good to about 3."""
BANDS_PER_DIAMETER = 0.5
"""Width of a band of frequency, in units of 1 / diameter."""
LOWEST = 0.8
"""Lowest frequency used, in units of 1 / diameter: ice varies more slowly than particles."""
HIGHEST = 7.0
"""Highest frequency used for matching, in units of 1 / diameter. Beyond it, matching cannot pick what fits the noise,
so that what it loses there can be corrected."""
TILE = 128
"""Pixels; edge of the tiles from which the power of the noise is measured."""


@dataclass(frozen=True)
class Field:
    """A labelled micrograph at the working pixel size."""

    name: str
    image: torch.Tensor
    """(y, x) grey values, particles dark."""
    pixel_size: float
    centres: torch.Tensor
    """(n, 2), y and x in pixels."""
    counted: torch.Tensor
    """(n,), False for particles at the border or hidden by carbon and crystals."""
    visible: torch.Tensor
    """(n,), False for hidden ones only."""
    optics: Optics
    rotations: torch.Tensor | None = None
    """(n, 3, 3), or None if the labels have no orientations."""


@dataclass(frozen=True)
class Strength:
    """Strength of the signal in one micrograph, and what is left."""

    frequency: np.ndarray
    """Middle of each band, 1/Å."""
    amplitude: np.ndarray
    """Of the signal in each band, grey values for the unit of the projections."""
    error: np.ndarray
    """Its standard error."""
    noise_variance: float
    """Of the noise where particles are, grey values squared."""
    signal: torch.Tensor
    """(y, x), with amplitude 1 in all bands."""
    singles: torch.Tensor
    """(n, b, b): the same of each particle that counts, without its neighbours."""
    mask: torch.Tensor
    """(n, b, b), of each of them."""


def band_edges(diameter: float, pixel_size: float) -> np.ndarray:
    """Edges of the bands of frequency (1/Å), from LOWEST to the Nyquist frequency."""
    return np.arange(LOWEST / diameter, 0.5 / pixel_size, BANDS_PER_DIAMETER / diameter)


def frequency_grid(shape: tuple[int, int], pixel_size: float) -> torch.Tensor:
    """Spatial frequency (1/Å) on the half plane of a real transform."""
    y, x = torch.fft.fftfreq(shape[0], pixel_size), torch.fft.rfftfreq(shape[1], pixel_size)
    return torch.hypot(y[:, None], x[None])


def strength(field: Field, projector: Projector, diameter: float) -> Strength:
    """Measure the signal and the noise of a field whose particles have orientations."""
    shape = (field.image.shape[0], field.image.shape[1])
    box = 2 * math.ceil(0.75 * diameter / field.pixel_size)
    projections = project(projector, field.rotations.float(), subpixel_shifts(field.centres).float(), box,
                          field.pixel_size)
    shown = field.visible
    margin = box  # so that particles beyond the border keep their rings
    size = (shape[0] + 2 * margin, shape[1] + 2 * margin)
    canvas = compose(projections[shown], field.centres[shown] + margin, size)
    signal = -apply_filter(canvas, ctf(size, field.pixel_size, field.optics))
    signal = signal[margin:margin + shape[0], margin:margin + shape[1]]
    singles, mask = _single_particles(projections[field.counted], field)
    frequency = frequency_grid(shape, field.pixel_size)
    edges = band_edges(diameter, field.pixel_size)
    band = torch.bucketize(frequency, torch.from_numpy(edges).float()).flatten() - 1
    window = taper(shape)
    image_spectrum, signal_spectrum = (fourier.rfft2((values - values.mean()) * window).flatten()
                                       for values in (field.image.float(), signal))
    inside = (band >= 0) & (band < len(edges) - 1)

    def summed(values: torch.Tensor) -> np.ndarray:
        return torch.zeros(len(edges) - 1, dtype=torch.float64).index_add_(
            0, band[inside], values[inside].double()).numpy()

    square = np.maximum(summed(signal_spectrum.abs().square()), 1e-30)
    amplitude = summed((image_spectrum * signal_spectrum.conj()).real) / square
    fitted = signal_spectrum * torch.from_numpy(np.append(amplitude, 0.0)).float()[band.clamp(0, len(edges) - 1)]
    left = summed((image_spectrum - fitted).abs().square())
    counts = summed(torch.ones_like(frequency).flatten())
    error = np.sqrt(left / np.maximum(counts, 1) / 2 / square)
    middle = (edges[1:] + edges[:-1]) / 2
    noise = field.image.float() - filtered(signal, field.pixel_size, middle, above_noise(amplitude, error))
    return Strength(middle, amplitude, error, noise_variance(noise, field, diameter), signal, singles, mask)


def _single_particles(projections: torch.Tensor, field: Field) -> tuple[torch.Tensor, torch.Tensor]:
    """Each particle alone through the optics, with as much space around it as its projection is wide, and its mask."""
    margin = projections.shape[-1] // 2
    wide = torch.nn.functional.pad(projections, (margin,) * 4)
    size = (wide.shape[1], wide.shape[2])
    return -apply_filter(wide, ctf(size, field.pixel_size, field.optics)), projection_masks(wide)


def above_noise(amplitude: np.ndarray, error: np.ndarray) -> np.ndarray:
    """The amplitudes of the bands around the clearest one that are two standard errors above zero.

    Bands above them get 0. Bands below them, where ice dominates, get the amplitude of the lowest certain band.
    """
    certain = amplitude > 2 * error
    best = int((amplitude / np.maximum(error, 1e-30)).argmax())
    after = np.flatnonzero(~certain[best:])
    before = np.flatnonzero(~certain[:best])
    last = best + int(after[0]) if len(after) else len(amplitude)
    first = int(before[-1]) + 1 if len(before) else 0
    place = np.arange(len(amplitude))
    return np.where(place < last, amplitude[np.maximum(place, min(first, best))], 0.0)


def filtered(image: torch.Tensor, pixel_size: float, frequency: np.ndarray, amplitude: np.ndarray) -> torch.Tensor:
    """Images with their amplitudes multiplied by a curve of the frequency; the ends of the curve go on."""
    grid = frequency_grid((image.shape[-2], image.shape[-1]), pixel_size)
    factor = torch.from_numpy(np.interp(grid.numpy(), frequency, amplitude)).float()
    return apply_filter(image, factor)


def noise_variance(noise: torch.Tensor, field: Field, diameter: float) -> float:
    """Variance of the noise in the tiles that hold labelled particles, without what varies more slowly than them.

    A tile counts as often as it holds particles that count. Below the lowest frequency that is used, the power at this
    frequency is taken.
    """
    window = torch.hann_window(TILE, periodic=False)[:, None] * torch.hann_window(TILE, periodic=False)
    power, weights = torch.zeros(TILE, TILE // 2 + 1), 0
    places = field.centres[field.counted]
    for y in range(0, noise.shape[0] - TILE + 1, TILE // 2):
        for x in range(0, noise.shape[1] - TILE + 1, TILE // 2):
            corner = torch.tensor([y, x])
            weight = int(((places >= corner) & (places < corner + TILE)).all(1).sum())
            tile = noise[y:y + TILE, x:x + TILE]
            power += weight * fourier.rfft2((tile - tile.mean()) * window).abs().square() / window.square().sum()
            weights += weight
    power /= max(weights, 1)
    frequency = frequency_grid((TILE, TILE), field.pixel_size)
    lowest = max(LOWEST / diameter, 2 / (TILE * field.pixel_size))
    at_lowest = (frequency >= lowest) & (frequency < 1.5 * lowest)
    power[frequency < lowest] = power[at_lowest].mean()
    both = torch.full((TILE // 2 + 1,), 2.0)
    both[0] = both[-1] = 1
    return float((power * both).sum() / TILE**2)


def mean_envelope(strengths: list[Strength]) -> tuple[np.ndarray, np.ndarray]:
    """Mean amplitude in each band over the fields, each relative to its own mean, and the standard error."""
    levels = np.array([np.average(one.amplitude, weights=1 / one.error**2) for one in strengths])
    relative = np.array([one.amplitude for one in strengths]) / levels[:, None]
    weights = 1 / (np.array([one.error for one in strengths]) / levels[:, None]) ** 2
    return np.average(relative, axis=0, weights=weights), 1 / np.sqrt(weights.sum(0))


def signal_to_noise(strengths: list[Strength], pixel_size: float) -> tuple[float, float]:
    """Signal-to-noise ratio as ``cryogem simulate`` defines it, and its standard error from the scatter of the fields.

    Variance of the signal of particles without neighbours inside their masks, over the variance of the noise. Bands
    whose amplitude is not certain count as empty, because noise in an amplitude would count as signal.
    """
    envelope, error = mean_envelope(strengths)
    envelope = above_noise(envelope, error)
    numerators = []
    for one in strengths:
        level = np.average(one.amplitude, weights=1 / one.error**2)
        signal = level * filtered(one.singles, pixel_size, one.frequency, envelope)
        numerators.append(float(signal[one.mask].double().var()))
    noises = [one.noise_variance for one in strengths]
    ratios = np.array(numerators) / np.array(noises)
    scatter = float(ratios.std(ddof=1) / math.sqrt(len(ratios))) if len(ratios) > 1 else math.nan
    return float(np.mean(numerators) / np.mean(noises)), scatter


def matched(field: Field, projector: Projector, diameter: float, seed: int = 0) -> Field:
    """The field with an orientation for each label, and its centre moved to where the projection fits best."""
    edge = 2 * math.ceil(0.75 * diameter / field.pixel_size)
    rotations = uniform_rotations(ORIENTATIONS, seeded_generator(seed, "benchmark")).float()
    templates = project(projector, rotations, torch.zeros(ORIENTATIONS, 2), edge, field.pixel_size)
    templates = templates - templates.mean((1, 2), keepdim=True)
    size = (edge, edge)
    frequency = frequency_grid(size, field.pixel_size)
    weight = (frequency > LOWEST / diameter) & (frequency < HIGHEST / diameter)
    spectra = fourier.rfft2(templates) * (-ctf(size, field.pixel_size, field.optics) * weight)
    norm = fourier.irfft2(spectra, size).square().sum((1, 2)).sqrt()
    spectra = spectra.conj() / norm[:, None, None]
    padded = torch.nn.functional.pad(field.image.float()[None, None], (edge,) * 4, mode="reflect")[0, 0]
    window = taper(size)
    centres, found = field.centres.clone(), []
    for number, (y, x) in enumerate(field.centres.round().long().tolist()):
        part = padded[y + edge // 2:y + 3 * edge // 2, x + edge // 2:x + 3 * edge // 2]
        scores = fourier.irfft2(fourier.rfft2((part - part.mean()) * window) * spectra, size)
        near = torch.cat([scores[:, -REACH:], scores[:, :REACH + 1]], 1)
        near = torch.cat([near[:, :, -REACH:], near[:, :, :REACH + 1]], 2)
        best = int(near.flatten().argmax())
        orientation, place = divmod(best, (2 * REACH + 1) ** 2)
        row, column = divmod(place, 2 * REACH + 1)
        # The origin of the templates lies at edge // 2, and so does the label in the part.
        shift = torch.tensor([row - REACH + _peak(near[orientation, :, column], row),
                              column - REACH + _peak(near[orientation, row], column)])
        centres[number] = torch.tensor([y, x]) + shift
        found.append(rotations[orientation])
    return replace(field, centres=centres, rotations=torch.stack(found))


def _peak(values: torch.Tensor, place: int) -> float:
    """Where a parabola through a maximum and its neighbours has its peak, relative to the maximum."""
    if not 0 < place < len(values) - 1:
        return 0.0
    before, top, after = values[place - 1:place + 2].tolist()
    bend = before - 2 * top + after
    return 0.0 if bend >= 0 else 0.5 * (before - after) / bend


def matching_correction(fields: list[Field], projector: Projector, diameter: float, seed: int = 1,
                        other_images: bool = False) -> np.ndarray:
    """What matching loses: amplitude in each band of fields with known orientations, over that after matching.

    With ``other_images``, places and orientations are used on other images of the same fields. What matching gains by
    fitting the noise is not in these, so the amplitudes after matching are those in the signal without noise.

    The synthetic fields have the centres, the optics, the strength and the noise's power of the given, matched fields,
    random orientations, and labels that err as much as the given ones were moved.
    """
    generator = seeded_generator(seed, "benchmark")
    true, found = [], []
    for field in fields:
        measured = strength(field, projector, diameter)
        amplitude = above_noise(measured.amplitude, measured.error)
        left = field.image.float() - filtered(measured.signal, field.pixel_size, measured.frequency, amplitude)
        phases = fourier.rfft2(torch.randn(left.shape, generator=generator))
        noise = fourier.irfft2(fourier.rfft2(left).abs() * phases / phases.abs().clamp_min(1e-12), left.shape)
        known = replace(field, image=left, rotations=uniform_rotations(len(field.centres), generator).float())
        signal = strength(known, projector, diameter).signal
        signal = filtered(signal, field.pixel_size, measured.frequency, amplitude)
        known = replace(known, image=noise + signal)
        marks = known.centres + torch.randn(known.centres.shape, generator=generator)
        true.append(strength(known, projector, diameter))
        placed = matched(replace(known, centres=marks, rotations=None), projector, diameter, seed)
        found.append(strength(placed, projector, diameter))
        if other_images:
            found[-1] = replace(found[-1], amplitude=strength(replace(placed, image=signal), projector,
                                                              diameter).amplitude)
    before, after = (np.average([one.amplitude for one in some], axis=0, weights=[1 / one.error**2 for one in some])
                     for some in (true, found))
    # Where nothing can be measured, nothing is corrected.
    error = 1 / np.sqrt(sum(1 / one.error**2 for one in found))
    return np.where((after > 3 * error) & (before > 3 * error), before / np.where(after == 0, 1, after), 1.0)


def registered(field: Field, projector: Projector, diameter: float, reach: int = 8) -> Field:
    """The field with all its centres shifted together to where the signal correlates best with the image."""
    signal = strength(field, projector, diameter).signal
    shape = (field.image.shape[0], field.image.shape[1])
    frequency = frequency_grid(shape, field.pixel_size)
    used = (frequency > LOWEST / diameter) & (frequency < 1 / 20)
    product = fourier.rfft2(field.image.float()) * fourier.rfft2(signal).conj() * used
    scores = fourier.irfft2(product, shape)
    near = torch.roll(scores, (reach, reach), (0, 1))[:2 * reach + 1, :2 * reach + 1]
    row, column = divmod(int(near.flatten().argmax()), 2 * reach + 1)
    return replace(field, centres=field.centres + torch.tensor([row - reach, column - reach]))


def nearest_distances(fields: list[Field]) -> np.ndarray:
    """Distance of each particle that counts to its nearest neighbour, Å."""
    distances = []
    for field in fields:
        vectors = field.centres[:, None].double() - field.centres[None].double()
        between = torch.hypot(vectors[..., 0], vectors[..., 1]).fill_diagonal_(math.inf)
        distances.append(between[field.counted][:, field.visible].min(1).values * field.pixel_size)
    return torch.cat(distances).numpy()


def taper(shape: tuple[int, int], part: float = 0.06) -> torch.Tensor:
    """Window that falls to 0 over a part of each side."""
    sides = []
    for size in shape:
        place = torch.arange(size) + 0.5
        distance = torch.minimum(place, size - place) / (part * size)
        sides.append(0.5 - 0.5 * torch.cos(math.pi * distance.clamp(max=1)))
    return sides[0][:, None] * sides[1][None]
