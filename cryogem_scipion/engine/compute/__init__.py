# SPDX-License-Identifier: GPL-3.0-or-later
"""Fourier transforms, resampling, threads and devices, as all rooms use them."""
