# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the program from this folder: ``python path/to/launcher.py simulate …``.

The engine's environment need not have this package installed. It must not import the packages beside it, which belong
to Scipion's environment. So this file registers only its own package, and no folder around it.
"""
import importlib.util
import sys
from pathlib import Path


def _register() -> None:
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    if "cryogem_scipion" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        "cryogem_scipion", here / "__init__.py", submodule_search_locations=[str(here)])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cryogem_scipion"] = module
    spec.loader.exec_module(module)


_register()

if __name__ == "__main__":
    from cryogem_scipion.__main__ import main
    sys.exit(main())
