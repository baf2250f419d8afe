# SPDX-License-Identifier: GPL-3.0-or-later
"""What pickers and refinements found, against the truth; numpy and scipy only."""
