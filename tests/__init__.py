# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of CryoGEM for Scipion."""


def load_tests(loader, standard_tests, pattern):
    """Return the tests for Scipion's test runner, which uses unittest; pytest finds all other tests by itself."""
    return loader.loadTestsFromName("cryogem_scipion.tests.test_protocols_cryogem")
