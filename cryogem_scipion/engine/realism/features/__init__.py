# SPDX-License-Identifier: GPL-3.0-or-later
"""Feature vectors of pieces of micrographs, by a network in a file; ``metrics.textures`` needs none."""
