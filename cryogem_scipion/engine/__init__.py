# SPDX-License-Identifier: GPL-3.0-or-later
"""All that runs without Scipion: simulation, noise, translation, evaluation and export."""
