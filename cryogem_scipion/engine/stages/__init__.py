# SPDX-License-Identifier: GPL-3.0-or-later
"""The stages of the program, each composed of the parts below it."""
