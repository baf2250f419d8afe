# SPDX-License-Identifier: GPL-3.0-or-later
"""The noise translator: networks, losses, training, checkpoints and model files."""
