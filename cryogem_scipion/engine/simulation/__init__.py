# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulation of clean images: what the microscope would form without noise."""
