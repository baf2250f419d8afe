# SPDX-License-Identifier: GPL-3.0-or-later
"""Valid inputs of all stages, and ways to damage them."""
import json
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cryogem_scipion.engine.io.mrc import read_mrc, write_mrc
from cryogem_scipion.engine.settings import GenerateSettings, PhantomSettings, SimulateSettings, TrainSettings
from cryogem_scipion.engine.stages import generate, phantom, simulate, train
from cryogem_scipion.engine.translator.networks import build_generator

PIXEL_SIZE = 6.0


def make_valid_inputs(folder):
    """Make a map, a simulation, a generated set, two real micrographs and a training, all very small."""
    phantom.run(PhantomSettings(out=folder / "map", box=32, pixel_size=PIXEL_SIZE, diameter_angstrom=110))
    simulate.run(SimulateSettings(out=folder / "sim", volume=(folder / "map/phantom.mrc",), micrographs=2,
                                  micrograph_size=(144, 160), particles_mean=4, particles_sigma=0, snr=0.3))
    generate.run(GenerateSettings(out=folder / "gen", simulation=folder / "sim", noise="gaussian", micrographs=1))
    (folder / "real").mkdir()
    for number in range(2):
        image, _ = read_mrc(folder / f"sim/micrographs/mic_{number:06d}.mrc", 2)
        noise = np.random.default_rng(number).normal(0, 0.05, image.shape)
        write_mrc(folder / f"real/{number}.mrc", 500 * (image + noise), PIXEL_SIZE)
    train.run(TrainSettings(out=folder / "run", real=(str(folder / "real/*.mrc"),), simulation=folder / "sim",
                            steps=1, crop=32, generator_width=4, discriminator_width=4))


@dataclass(frozen=True)
class InputFolders:
    """Folders of one test: ``good`` holds valid inputs, ``bad`` gets the damaged ones."""

    good: Path
    bad: Path

    def bytes(self, name, content):
        """Write a file."""
        (self.bad / name).write_bytes(content)

    def mrc(self, name, shape=(144, 160), pixel_size=PIXEL_SIZE, mode=2, content=None, order="<", length=None):
        """Write an MRC file field by field, so that each field can be wrong. Without ``content`` it holds noise."""
        code = {0: "i1", 1: "i2", 2: "f4", 4: "c8", 6: "u2", 12: "f2"}.get(mode, "f4")
        if content is None:
            content = np.random.default_rng(0).normal(100, 9, [max(1, abs(edge)) for edge in shape])
        z, y, x = shape if len(shape) == 3 else (1, *shape)
        header = struct.pack(order + "10i6f3i3f2i", x, y, z, mode, 0, 0, 0, x, y, z, x * pixel_size, y * pixel_size,
                             z * pixel_size, 90, 90, 90, 1, 2, 3, 0, 0, 0, 1 if len(shape) == 3 else 0, 0)
        machine_stamp = bytes([0x44, 0x44, 0, 0] if order == "<" else [0x11, 0x11, 0, 0])
        header = header.ljust(208, b"\0") + b"MAP " + machine_stamp + bytes(8)
        data = np.asarray(content).astype(order + code).tobytes()
        self.bytes(name, (header.ljust(1024, b"\0") + data)[:length])

    def atoms(self, name, distance):
        """Write an atomic model of two atoms at a distance (Å)."""
        chain = gemmi.Chain("A")
        for x in (0, distance):
            residue, atom = gemmi.Residue(), gemmi.Atom()
            residue.name, residue.seqid = "UNK", gemmi.SeqId(str(len(chain) + 1))
            atom.name, atom.element, atom.pos = "C", gemmi.Element("C"), gemmi.Position(x, 0, 0)
            residue.add_atom(atom)
            chain.add_residue(residue)
        structure = gemmi.Structure()
        structure.add_model(gemmi.Model(1))
        structure[0].add_chain(chain)
        structure.make_mmcif_document().write_file(str(self.bad / name))

    def copy(self, name):
        """Copy a valid file or folder to the folder ``bad``."""
        source, target = self.good / name, self.bad / Path(name).name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)
        return target

    def edit(self, path, change):
        """Change the text of a file in the folder ``bad``."""
        text = (self.bad / path).read_text("utf-8")
        changed = change(text)
        assert changed != text
        (self.bad / path).write_text(changed, "utf-8")

    def manifest(self, path, **values):
        """Change values of a manifest in the folder ``bad``."""
        self.edit(path, lambda text: json.dumps({**json.loads(text), **values}))

    def published(self, length=None, **tensors):
        """Write a small checkpoint in the published layout; ``length`` cuts it after so many bytes."""
        network = build_generator({"name": "published", "levels": 6, "width": 4})
        torch.save({**network.state_dict(), **tensors}, self.bad / "x.pth")
        self.bytes("x.pth", (self.bad / "x.pth").read_bytes()[:length])

    def model(self, name="run/model.safetensors", tensors=None, **values):
        """Copy the model with other tensors or metadata."""
        path = self.copy(name)
        with safe_open(path, "pt") as file:
            metadata = json.loads(file.metadata()["cryogem"])
        save_file({**load_file(path), **(tensors or {})}, path, {"cryogem": json.dumps({**metadata, **values})})


def star(name, *rows, columns="rlnMicrographName rlnDefocusU rlnDefocusV rlnDefocusAngle"):
    """Return the text of a STAR table as bytes."""
    return "\n".join([f"data_{name}", "", "loop_", *("_" + column for column in columns.split()), *rows, ""]).encode()


def sphere(edge, radius):
    """Return a cube (bool) with a ball in its centre."""
    axis = np.arange(edge) - edge // 2
    return axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2 < radius**2
