# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of reports; drawn from the report's own files, with matplotlib only, by the engine and by the viewers."""
