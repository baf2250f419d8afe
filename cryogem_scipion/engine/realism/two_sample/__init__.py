# SPDX-License-Identifier: GPL-3.0-or-later
"""Two-sample test: small networks learn to tell generated from real micrographs, and judge micrographs unknown to them.

Method: D. Lopez-Paz, M. Oquab, "Revisiting classifier two-sample tests", ICLR 2017, arXiv 1610.06545.
"""
