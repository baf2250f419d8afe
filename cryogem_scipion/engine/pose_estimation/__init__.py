# SPDX-License-Identifier: GPL-3.0-or-later
"""Poses of single particles: a reference learned from particles with known poses, and the search for poses with it."""
