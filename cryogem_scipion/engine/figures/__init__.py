# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of the reports. Engine and viewers draw them from the report's files, with matplotlib only."""
