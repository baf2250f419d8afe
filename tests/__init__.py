# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of CryoGEM for Scipion."""


def load_tests(loader, standard_tests, pattern):
    """Give Scipion's test runner, which uses unittest, the tests that are written for it; pytest finds the others."""
    return loader.loadTestsFromName("cryogem_scipion.tests.test_protocols_cryogem")
