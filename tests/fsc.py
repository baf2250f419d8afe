# SPDX-License-Identifier: GPL-3.0-or-later
"""Fourier shell correlation of two maps."""
import numpy as np


def shell_correlation(a, b):
    """Return the Fourier shell correlation of two cubic maps, for each shell below Nyquist."""
    box = len(a)
    axis = np.fft.fftfreq(box) * box
    shell = np.rint(np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis ** 2)).astype(int).ravel()
    a, b = np.fft.fftn(a).ravel(), np.fft.fftn(b).ravel()

    def sums(values):
        return np.bincount(shell, values)[: box // 2]

    return sums((a * b.conj()).real) / np.sqrt(sums(np.abs(a) ** 2) * sums(np.abs(b) ** 2))
