# SPDX-License-Identifier: GPL-3.0-or-later
"""Export of a dataset for other programs: the choice of its parts, and one module for each program."""
