# SPDX-License-Identifier: GPL-3.0-or-later
"""Fourier transforms, resampling, threads and devices, for all other packages of the engine."""
