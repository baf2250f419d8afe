# SPDX-License-Identifier: GPL-3.0-or-later
"""What every room computes with: Fourier transforms, resampling, threads and devices."""
