# SPDX-License-Identifier: GPL-3.0-or-later
"""From the clean image to one that looks like the microscope's own."""
