# SPDX-License-Identifier: GPL-3.0-or-later
"""A data set as other programs read it: what is chosen of it, and a module for each program."""
