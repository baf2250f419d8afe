# SPDX-License-Identifier: GPL-3.0-or-later
"""Simulation of clean images, which the microscope would form without noise, and of their labels."""
