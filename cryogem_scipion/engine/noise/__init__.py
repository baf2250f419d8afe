# SPDX-License-Identifier: GPL-3.0-or-later
"""Noise without a network: measured on real micrographs and drawn again."""
