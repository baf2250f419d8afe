# SPDX-License-Identifier: GPL-3.0-or-later
"""The plugin as Scipion finds it, and imports without Scipion or the engine's libraries; for checkout and wheel."""
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from tests.registration import CHECKOUT, checkout_environment


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A function that runs code in a new Python process, in an empty folder, with the checkout on its path."""
    environment = checkout_environment(tmp_path_factory.mktemp("metadata"))
    return _runner(sys.executable, environment, tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A function that runs code in a new virtual environment with the wheel.

    The wheel is built from the source distribution, as on a user's machine. Other packages are those of this Python.
    """
    source, built, venv = (tmp_path_factory.mktemp(name) for name in ("source", "wheel", "venv"))
    skipped = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "demo")
    shutil.copytree(CHECKOUT, source, symlinks=True, dirs_exist_ok=True, ignore=skipped)
    _check([sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", str(built)], cwd=source)
    archive = next(built.glob("*.tar.gz"))
    _check([sys.executable, "-m", "pip", "wheel", str(archive), "--quiet", "--no-deps", "--no-build-isolation",
            "--disable-pip-version-check", "-w", str(built)], cwd=built)
    _check([sys.executable, "-m", "venv", "--without-pip", str(venv)])
    python = venv / "bin" / "python"
    site = next((venv / "lib").glob("python3.*")) / "site-packages"
    _check([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check",
            "--target", str(site), str(next(built.glob("*.whl")))])
    # Folders in a .pth file come after the wheel's folder, and their editable installs are ignored.
    (site / "others.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    environment = {"PATH": "/usr/bin:/bin", "SCIPION_DOMAIN": "pwem", "MPLBACKEND": "Agg",
                   "HOME": str(tmp_path_factory.mktemp("home"))}
    return _runner(str(python), environment, tmp_path_factory.mktemp("empty"))


CONTENT = """
    from pathlib import Path
    import cryogem_scipion, pwem
    domain = pwem.Domain
    data = Path(cryogem_scipion.__file__).parent / "data"
    assert {path.name for path in data.glob("*.mrc")} == {"krios_micrograph_3.4A.mrc"}
    assert len(list((data / "apoferritin_3A").glob("*.mrc"))) == 4
    print(Path(cryogem_scipion.__file__).parent)
    assert "cryogem_scipion" in domain.getPlugins()
    protocols = {name for name, kind in domain.getProtocols().items()
                 if kind.getClassPackageName() == "cryogem_scipion"}
    assert protocols == {"ProtCryogemSimulate", "ProtCryogemTrain", "ProtCryogemGenerate",
                         "ProtCryogemImportModel", "ProtCryogemEvaluate", "ProtCryogemEvaluatePicks",
                         "ProtCryogemEvaluatePoses", "ProtCryogemExport", "ProtCryogemReturnCoordinates",
                         "ProtCryogemMeasure", "ProtCryogemTrainPoses", "ProtCryogemAssignPoses"}, protocols
    assert {"CryogemDatasetViewer", "CryogemTrainViewer", "CryogemModelViewer", "CryogemEvaluateViewer",
            "CryogemPicksViewer", "CryogemPosesViewer", "CryogemMeasureViewer",
            "CryogemMeasurementViewer", "CryogemTrainPosesViewer", "CryogemAssignPosesViewer",
            "CryogemPoseModelViewer"} <= set(domain.getViewers())
    assert {"CryogemModel", "CryogemMeasurement", "CryogemPoseModel"} <= set(domain.getObjects())
    assert {"CryogemParticleWizard", "CryogemPixelSizeWizard", "CryogemDiameterWizard"} <= set(domain.getWizards())

    from pyworkflow.gui.project.viewprotocols_extra import ProtocolTreeConfig
    tree = ProtocolTreeConfig.load(domain, str(Path(pwem.__file__).parent / "protocols.conf"))
    sections = {section.text: section for section in tree["Protocols SPA"]}
    assert {item.value for item in sections["CryoGEM"]} == protocols
    assert sections["CryoGEM"].visible
    assert "Imports" in sections

    for name in protocols:
        kind = domain.getProtocols()[name]
        assert Path(kind.getPluginLogoPath()).is_file()
        assert kind.isInstalled() and not kind.isDisabled()
        protocol = kind()
        assert any("2312.02235" in line for line in protocol.citations()), protocol.citations()
        assert kind.getPlugin().getName() == "cryogem_scipion"
        viewers = domain.findViewers(protocol, "tkinter")
        assert viewers and viewers[0].__module__.startswith("cryogem_scipion.viewers")
    for name in ("CryogemModel", "CryogemMeasurement", "CryogemPoseModel"):
        assert domain.findViewers(domain.getObjects()[name](), "tkinter")
    plugin = domain.getPlugins()["cryogem_scipion"].Plugin
    assert plugin.getSupportedVersions() == [cryogem_scipion.__version__]
    templates = domain.getPlugins()["cryogem_scipion"]._pluginInstance.getTemplates()
    assert sorted(template.getObjId() for template in templates) == ["cryogem_scipion-labelled_micrographs",
                                                                     "cryogem_scipion-micrographs_to_map"]
"""

WITHOUT_ENGINE = """
    import sys
    for name in ("torch", "numba", "ducc0", "threadpoolctl", "gemmi", "safetensors"):
        sys.modules[name] = None  # an import of it fails
    import cryogem_scipion.plugin, cryogem_scipion.objects, cryogem_scipion.workflow
    import cryogem_scipion.protocols, cryogem_scipion.viewers, cryogem_scipion.wizards
    import pwem
    assert "ProtCryogemTrain" in pwem.Domain.getProtocols()
    from cryogem_scipion.plugin import Plugin
    assert "lacks torch" in Plugin.validateInstallation()[0]
    assert not pwem.Domain.getProtocols()["ProtCryogemTrain"].isInstalled()
"""

WITHOUT_SCIPION = """
    import importlib, pkgutil, sys
    for name in ("pwem", "pyworkflow"):
        sys.modules[name] = None
    import cryogem_scipion
    package = importlib.import_module("cryogem_scipion.engine")
    found = [name for _, name, _ in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
    for name in [*found, "cryogem_scipion.__main__"]:
        importlib.import_module(name)
    assert len(found) > 100
    from cryogem_scipion.__main__ import main
    sys.argv = ["cryogem", "simulate"]
    assert main() == 2
"""

INSTALLATION = """
    import pwem
    pwem.Domain.getPlugins()
    from cryogem_scipion.plugin import Plugin, engine_requirements

    class Environment:
        def addPackage(self, name, **settings):
            self.name, self.settings = name, settings

    environment = Environment()
    Plugin.defineBinaries(environment)
    (command, target), = environment.settings["commands"]
    assert environment.name == "cryogem" and target in command
    assert "conda create" in command and "torch" in command and "starfile" in command
    assert "scipion" not in " ".join(engine_requirements())
    assert environment.settings["default"] is False  # this Python has torch already
"""


@pytest.mark.parametrize("code", [CONTENT, WITHOUT_ENGINE, WITHOUT_SCIPION, INSTALLATION],
                         ids=["content", "without engine", "without Scipion", "installation"])
def test_checkout(checkout, code):
    checkout(code)


def test_the_wheel_holds_all_of_the_checkout_and_scipion_finds_it(wheel):
    place = Path(wheel(CONTENT).strip())
    assert CHECKOUT not in place.parents
    assert place.parent.name == "site-packages"
    source = CHECKOUT / "cryogem_scipion"
    # rglob does not follow the links to protocols, viewers and tests.
    folders = [(source, place), *((source / name, place / name) for name in ("protocols", "viewers"))]
    for here, there in folders:
        files = {path.relative_to(here) for path in here.rglob("*") if path.is_file()
                  and "__pycache__" not in path.parts}
        assert files <= {path.relative_to(there) for path in there.rglob("*")}
    assert {"protocols.conf", "logo.png", "launcher.py"} <= {path.name for path in place.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("code", [WITHOUT_ENGINE, WITHOUT_SCIPION, INSTALLATION],
                         ids=["without engine", "without Scipion", "installation"])
def test_wheel(wheel, code):
    wheel(code)


def test_the_launcher_needs_no_installation_and_hides_its_neighbours(tmp_path):
    """The engine may run in another Python, which has neither the package nor its neighbours on its path."""
    launcher = CHECKOUT / "cryogem_scipion" / "launcher.py"
    code = f"""
        import runpy, sys
        sys.argv = [{str(launcher)!r}, "--version"]
        before = list(sys.path)
        try:
            runpy.run_path({str(launcher)!r}, run_name="__main__")
        except SystemExit as end:
            assert end.code == 0
        assert sys.path == before
        assert {str(CHECKOUT)!r} not in sys.path
    """
    _runner(sys.executable, {"PATH": "/usr/bin:/bin"}, tmp_path)(code)
    process = subprocess.run([sys.executable, launcher, "simulate", "--micrographs", "x"], cwd=tmp_path,
                             capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr.startswith("cryogem: ")
    assert "Traceback" not in process.stderr


def _runner(python, environment, folder):
    def run(code):
        return _check([python, "-c", textwrap.dedent(code)], cwd=folder, env=environment)
    return run


def _check(command, **options):
    process = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert process.returncode == 0, process.stdout[-2000:] + process.stderr[-4000:]
    return process.stdout


def test_links_of_the_layout_stay_links():
    for name in ("protocols", "viewers", "tests"):
        assert (CHECKOUT / "cryogem_scipion" / name).is_symlink()
        assert (CHECKOUT / "cryogem_scipion" / name).resolve() == Path(CHECKOUT / name).resolve()
