# SPDX-License-Identifier: GPL-3.0-or-later
"""Files: MRC images, STAR tables, and the folder that every stage leaves."""
