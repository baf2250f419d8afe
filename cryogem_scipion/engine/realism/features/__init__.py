# SPDX-License-Identifier: GPL-3.0-or-later
"""Feature vectors of patches of micrographs: by random filters, or by a network from a file."""
