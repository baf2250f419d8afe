# SPDX-License-Identifier: GPL-3.0-or-later
"""Scipion's own test runner finds the plugin's tests and runs them: ``scipion3 tests``."""
import os
import subprocess
import sys

import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

MODULE = "cryogem_scipion.tests.test_protocols_cryogem"


def run_tests(folder, *arguments):
    """Output and exit status of Scipion's test runner, in a workspace of its own."""
    environment = {**os.environ, "SCIPION_USER_DATA": str(folder)}
    process = subprocess.run([sys.executable, "-m", "pyworkflow.apps.pw_run_tests", *arguments], env=environment,
                             cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return process.stdout, process.returncode


def test_the_runner_lists_our_tests_and_no_errors(project, tmp_path):
    listed, _ = run_tests(tmp_path, "--show", "--grep", "cryogem_scipion", "--mode", "all")
    assert f"{MODULE}.TestCryogem.testGenerate" in listed
    assert "Error" not in listed
    assert "cryogem_scipion.tests.unit" not in listed


@pytest.mark.slow
def test_the_runner_passes_our_tests(project, tmp_path):
    output, status = run_tests(tmp_path, "cryogem_scipion.tests")
    assert status == 0, output[-4000:]
    assert "[  PASSED  ]" in output
