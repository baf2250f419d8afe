# SPDX-License-Identifier: GPL-3.0-or-later
"""Export of a dataset, or of a part of it, with one module for each program."""
