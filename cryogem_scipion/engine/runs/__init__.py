# SPDX-License-Identifier: GPL-3.0-or-later
"""Start, progress, failure and continuation of a run."""
