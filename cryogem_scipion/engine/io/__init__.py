# SPDX-License-Identifier: GPL-3.0-or-later
"""Files: MRC images, STAR tables, and the dataset folder that every stage writes."""
