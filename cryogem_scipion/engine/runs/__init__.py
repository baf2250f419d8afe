# SPDX-License-Identifier: GPL-3.0-or-later
"""How every run begins, reports its progress, fails, and continues."""
