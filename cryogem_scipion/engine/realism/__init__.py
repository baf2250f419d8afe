# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures of how far generated micrographs are from real ones: image statistics, features, distances, signal."""
