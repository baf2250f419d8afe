# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets of maps and atomic models as inputs of the simulation."""
import re

import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from pwem.objects import AtomStruct, SetOfAtomStructs, SetOfVolumes, Volume

from cryogem_scipion.config import SimulateSettings, parse
from cryogem_scipion.dataset import PARTICLES, read_table
from cryogem_scipion.protocols import ProtCryogemSimulate
from cryogem_scipion.protocols.inputs import map_files
from cryogem_scipion.workflow import WorkflowError, run

ATOM = "ATOM  {0:5d}  CA  ALA A{0:4d}    {1:8.3f}{2:8.3f}{3:8.3f}  1.00 20.00           C\n"


def test_every_item_of_a_set_is_named(tmp_path):
    for kind, item in ((SetOfVolumes, Volume), (SetOfAtomStructs, AtomStruct)):
        items = kind(filename=str(tmp_path / f"{item.__name__}.sqlite"))
        for number in range(3):
            one = item()
            one.setFileName(str(tmp_path / f"{number}.mrc"))
            items.append(one)
        items.write()
        assert map_files(items) == [str(tmp_path / f"{number}.mrc") for number in range(3)]
        items.close()


def test_maps_of_a_set_and_an_atomic_model_are_simulated(scipion, project):
    maps = scipion / "maps"
    maps.mkdir()
    for name in ("a.mrc", "b.mrc"):
        (maps / name).write_bytes((scipion / "map.mrc").read_bytes())
    several = run(project, "ProtImportVolumes", "maps", filesPath=maps, filesPattern="*.mrc", samplingRate=6.0)
    form = {"micrographs": 2, "micrographSize": "200 200", "particlesMean": 12.0, "numberOfThreads": 2}
    made = run(project, "ProtCryogemSimulate", "two maps", inputVolume=(several, "outputVolumes"),
               volumeProportions="1 3", **form)
    _, rows = read_table(made.outFolder() / PARTICLES, "particles")
    assert rows["cryogemSource"].nunique() == 2
    assert {name.split("_", 1)[1] for name in rows["cryogemSource"]} == {
        path.rsplit("/", 1)[1] for path in map_files(several.outputVolumes)}

    model = scipion / "helix.pdb"
    model.write_text("".join(ATOM.format(number, 20 * (number % 3), 9.0 * (number // 3), 1.5 * number)
                             for number in range(1, 40)) + "END\n")
    structure = run(project, "ProtImportPdb", "model", inputPdbData=1, pdbFile=str(model))
    with pytest.raises(WorkflowError, match="an atomic model has none; set it"):
        run(project, "ProtCryogemSimulate", inputVolume=(structure, "outputPdb"), **form)
    made = run(project, "ProtCryogemSimulate", "model's", inputVolume=(structure, "outputPdb"), pixelSize=5.0, **form)
    assert made.outputMicrographs.getSize() == 2
    assert made.outputMicrographs.getSamplingRate() == 5.0


def test_a_cryodrgn_folder_is_checked_and_passed_on(project, tmp_path, monkeypatch):
    from cryogem_scipion.plugin import CRYODRGN_ENV_ACTIVATION, Plugin
    monkeypatch.setattr(Plugin, "_vars", {})
    monkeypatch.delenv(CRYODRGN_ENV_ACTIVATION, raising=False)
    decoded = {"specimenSource": 1, "cryodrgnFolder": str(tmp_path), "cryodrgnConformations": 7}
    with pytest.raises(WorkflowError, match=r"(?s)has no config\.yaml; choose the folder.*set CRYODRGN_ENV_ACTIVATION"):
        run(project, "ProtCryogemSimulate", **decoded)
    (tmp_path / "config.yaml").write_text("")
    monkeypatch.setenv(CRYODRGN_ENV_ACTIVATION, ". /no/such/activate")
    protocol = project.newProtocol(ProtCryogemSimulate, **decoded)
    [message] = protocol.validate()
    assert re.search(r"environment of cryoDRGN cannot be used \(.*/no/such/activate.*\); correct CRYODRGN_ENV", message)
    monkeypatch.setenv(CRYODRGN_ENV_ACTIVATION, "PATH=$PATH:/")
    assert "(no program cryodrgn)" in protocol.validate()[0]
    # An environment is a folder of programs; this one has a single one.
    (tmp_path / "cryodrgn").write_text("#!/bin/sh\n")
    (tmp_path / "cryodrgn").chmod(0o755)
    activation = f"PATH=$PATH:{tmp_path}"
    monkeypatch.setenv(CRYODRGN_ENV_ACTIVATION, activation)
    assert protocol.validate() == []
    assert "only if you trust" in protocol.warnings()[0]
    values = parse(SimulateSettings, protocol.settingsValues())
    assert (values.cryodrgn_folder, values.volume, values.cryodrgn_conformations) == (tmp_path, (), 7)
    assert values.cryodrgn_activation == activation
    # Of maps, nothing of cryoDRGN is asked for.
    protocol.specimenSource.set(0)
    assert any("*Map* cannot be EMPTY" in message for message in protocol.validate())
