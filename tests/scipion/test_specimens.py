# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets of maps and atomic models as inputs of the simulation."""
import json
import re

import pytest

pytest.importorskip("pwem", reason="Scipion's packages are not installed")

from pwem.objects import AtomStruct, SetOfAtomStructs, SetOfVolumes, Volume

from cryogem_scipion.engine.io.dataset import EXTRACTED, PARTICLES, VARIATION, read_manifest, read_table
from cryogem_scipion.engine.settings import SimulateSettings, parse
from cryogem_scipion.protocols import ProtCryogemSimulate
from cryogem_scipion.protocols.inputs import map_files
from cryogem_scipion.protocols.outputs import micrographs_output, particles_output
from cryogem_scipion.workflow import WorkflowError, new_protocol, run
from tests.scipion.conftest import finished

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


def simulated(project, out, **form):
    """Dataset folder of a protocol's simulation: its form is validated, its run.json is run in this process."""
    from cryogem_scipion.engine.stages import simulate
    protocol = new_protocol(project, "ProtCryogemSimulate", micrographs=2, micrographSize="200 200",
                            particlesMean=12.0, **form)
    assert protocol.validate() == []
    values = json.loads(json.dumps(protocol.settingsValues(), default=str))
    simulate.run(parse(SimulateSettings, {**values, "out": out}))
    return out


def test_maps_of_a_set_and_an_atomic_model_are_simulated(scipion, project, tmp_path):
    def volumes(protocol):
        several = protocol._createSetOfVolumes()
        several.setSamplingRate(6.0)
        for name in ("a.mrc", "b.mrc"):
            (tmp_path / name).write_bytes((scipion / "map.mrc").read_bytes())
            several.append(Volume(location=str(tmp_path / name)))
        protocol._defineOutputs(outputVolumes=several)

    source = finished(project, "maps", volumes)
    out = simulated(project, tmp_path / "maps", inputVolume=(source, "outputVolumes"), volumeProportions="1 3")
    _, rows = read_table(out / PARTICLES, "particles")
    assert {name.split("_", 1)[1] for name in rows["cryogemSource"]} == {"a.mrc", "b.mrc"}

    model = tmp_path / "helix.pdb"
    model.write_text("".join(ATOM.format(number, 20 * (number % 3), 9.0 * (number // 3), 1.5 * number)
                             for number in range(1, 40)) + "END\n")
    source = finished(project, "model", lambda protocol: protocol._defineOutputs(outputPdb=AtomStruct(str(model))))
    with pytest.raises(WorkflowError, match="an atomic model has no pixel size; set a value"):
        run(project, "ProtCryogemSimulate", inputVolume=(source, "outputPdb"))
    manifest = read_manifest(simulated(project, tmp_path / "model", inputVolume=(source, "outputPdb"), pixelSize=5.0))
    assert (manifest.micrographs, manifest.pixel_size) == (2, 5.0)


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
    # This environment is a folder with one program.
    (tmp_path / "cryodrgn").write_text("#!/bin/sh\n")
    (tmp_path / "cryodrgn").chmod(0o755)
    activation = f"PATH=$PATH:'{tmp_path}'"
    monkeypatch.setenv(CRYODRGN_ENV_ACTIVATION, activation)
    assert protocol.validate() == []
    assert "only if you trust" in protocol.warnings()[0]
    values = parse(SimulateSettings, protocol.settingsValues())
    assert (values.cryodrgn_folder, values.volume, values.cryodrgn_conformations) == (tmp_path, (), 7)
    assert values.cryodrgn_activation == activation
    # With maps, cryoDRGN is not checked.
    protocol.specimenSource.set(0)
    assert any("*Map* cannot be EMPTY" in message for message in protocol.validate())


def test_particles_carry_what_varies_between_them(scipion, project, tmp_path):
    def volume(protocol):
        item = Volume(location=str(scipion / "map.mrc"))
        item.setSamplingRate(6.0)
        protocol._defineOutputs(outputVolume=item)

    source = finished(project, "varied map", volume)
    folder = simulated(project, tmp_path / "varied", inputVolume=(source, "outputVolume"), extract=True,
                       contrastVariation=0.2, brokenFraction=0.5)
    _, rows = read_table(folder / EXTRACTED, "particles", VARIATION)
    manifest, protocol = read_manifest(folder), new_protocol(project, "ProtCryogemSimulate")
    project.saveProtocol(protocol)
    protocol.makePathsAndClean()
    particles = particles_output(protocol, folder, manifest, micrographs_output(protocol, folder, manifest))
    assert rows["rlnCtfScalefactor"].nunique() == len(rows) == particles.getSize()
    for particle, row in zip(particles.iterItems(), rows.to_dict("records"), strict=True):
        assert [particle.getAttributeValue(f"_{name}") for name in VARIATION] == [row[name] for name in VARIATION]
