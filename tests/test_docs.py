# SPDX-License-Identifier: GPL-3.0-or-later
"""README, the pages, and the parts of the site that are made from the code; Sphinx itself is not needed."""
import importlib.util
import re
from pathlib import Path

import pytest

from cryogem_scipion.engine.io.dataset import Manifest
from cryogem_scipion.engine.settings import STAGES

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "cryogem_scipion/engine"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md",
         *sorted(page for page in (ROOT / "docs").rglob("*.md") if not {"generated", "_build"} & set(page.parts))]
NEW_IN_RECIPES = {"counts", "test_counts", "plain_networks", "table", "count", "protocol_count"}
"""Files that the recipes make."""


@pytest.fixture(scope="module")
def reference():
    """The module that makes pages from the code."""
    spec = importlib.util.spec_from_file_location("docs_reference", ROOT / "docs/reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        path = target.partition("#")[0]
        if path and not re.match(r"https?:", path) and "generated/" not in path:
            assert (page.parent / path).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page):
    for name in re.findall(r"`([\w./-]+/[\w.-]*\.(?:py|md|sh|txt))`", page.read_text("utf-8")):
        if Path(name).stem not in NEW_IN_RECIPES:
            assert (ROOT / name).is_file() or (ENGINE / name).is_file(), name


def test_every_picture_of_the_tour_that_a_page_shows_is_taken_by_it():
    shown = {name for page in PAGES for name in re.findall(r"tour/(\w+\.png)", page.read_text("utf-8"))}
    assert len(shown) > 15
    assert shown <= {path.name for path in (ROOT / "docs/tour").glob("*.png")}


def test_the_picture_of_the_house_and_the_page_name_every_room():
    picture = (ROOT / "docs/architecture/house.svg").read_text("utf-8")
    page = (ROOT / "docs/architecture/index.md").read_text("utf-8")
    for room in sorted(path.parent.name for path in ENGINE.glob("*/__init__.py")):
        assert f">{room}<" in picture, room
        assert f"`{room}/`" in page, room


def test_the_reference_has_every_flag_and_every_field_of_the_manifest(reference):
    text = reference.command_page()
    for stage, settings in STAGES.items():
        assert f"## cryogem {stage}" in text
        for field in settings.model_fields:
            assert f"--{field.replace('_', '-')}" in text, (stage, field)
    fields = reference.manifest_table()
    assert all(f"`{field}`" in fields for field in Manifest.model_fields)


def test_the_reference_has_every_parameter_of_every_form(reference):
    pytest.importorskip("pwem", reason="the forms need Scipion's packages")
    from cryogem_scipion import protocols
    from cryogem_scipion.protocols.binding import parameter_name
    text = reference.protocol_page()
    for name in protocols.__all__:
        assert f"`{name}`" in text
    for settings in (protocols.ProtCryogemSimulate._settings, protocols.ProtCryogemTrain._settings):
        for field, info in settings.model_fields.items():
            if info.json_schema_extra["form"]:
                assert f"`{parameter_name(field)}`" in text, field


def test_the_reference_has_every_module(reference):
    text = "\n".join(reference.room_pages().values())
    for path in ENGINE.rglob("*.py"):
        if path.stem != "__init__" and "__all__ = " in path.read_text("utf-8"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            assert f".. automodule:: {module}\n" in text, module
