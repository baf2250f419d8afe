# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures from real micrographs and a map, without labels, what a simulation needs."""
