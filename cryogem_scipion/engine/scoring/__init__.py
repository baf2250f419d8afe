# SPDX-License-Identifier: GPL-3.0-or-later
"""Comparison of picks and of refined poses with the true labels; needs NumPy and SciPy only."""
