# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulation of what the microscope would form without noise."""
