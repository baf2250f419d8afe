# SPDX-License-Identifier: GPL-3.0-or-later
"""How far apart two sets of micrographs are: pure functions of tensors, which read and write no files."""
