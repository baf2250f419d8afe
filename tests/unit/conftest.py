# SPDX-License-Identifier: GPL-3.0-or-later
"""Shared by the unit tests: small sets of real and simulated micrographs, threads, and faster settings."""
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from tests.other_processor import other_processor
from tests.particle_fields import hollow_particle, three_fields

SNR = 0.4


def with_random_output_layer(network, deviation):
    """Return the network; a residual generator gets random weights in its last layer, so that it changes its input."""
    if hasattr(network, "leave"):
        torch.nn.init.normal_(network.leave.weight, 0.0, deviation)
    return network


@pytest.fixture(scope="session")
def shell():
    """A hollow particle with bumps."""
    return hollow_particle()


@pytest.fixture(scope="session")
def micrographs(shell):
    """Three fields of the shell, and the number of particles in all of them."""
    return three_fields(shell)


@pytest.fixture(params=["this", "other"])
def processor(request):
    """This processor, then a simulated one whose last bits depend on threads, batches and addresses in memory."""
    with other_processor() if request.param == "other" else nullcontext():
        yield request.param


@pytest.fixture
def torch_threads():
    """Function that sets the number of threads of torch; the test's end restores it."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def few_validation_crops():
    """Let the validation of a training use few crops and steps, to save time; its own tests choose other numbers."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("MAX_CROPS", 2), ("HELD_OUT_FACTOR", 1), ("FLOOR_DRAWS", 2)):
            patch.setattr(f"cryogem_scipion.engine.translator.validation.{name}", value)
        for name, value in (("CRITIC_STEPS", {"pixels": 2, "textures": 2}), ("JUDGED_SQUARES", 16)):
            patch.setattr(f"cryogem_scipion.engine.translator.validation_critic.{name}", value)
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Let torch use one thread, because several threads are slower for the small images of the tests.

    Tests of threads set their own number.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def killed_after_three_steps(work):
    """Run a training and interrupt it after its third step."""
    from cryogem_scipion.engine.stages import train
    records = train.train

    def interrupted(*arguments):
        for record in records(*arguments):
            if record.step == 3:
                raise KeyboardInterrupt
            yield record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            work()


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A simulation at 6 Å, and 'real' micrographs at 3 Å of other specimens, in counts, with a gradient and noise."""
    from cryogem_scipion.engine.compute.resampling import fourier_crop
    from cryogem_scipion.engine.io.mrc import read_mrc, write_mrc
    from cryogem_scipion.engine.settings import PhantomSettings, SimulateSettings
    from cryogem_scipion.engine.stages import phantom, simulate
    folder = tmp_path_factory.mktemp("world")
    phantom.run(PhantomSettings(out=folder / "map", box=40, pixel_size=4.0, diameter_angstrom=120))
    common = {"volume": (folder / "map/phantom.mrc",), "pixel_size": 6.0, "micrograph_size": (192, 224),
              "particles_mean": 12, "particles_sigma": 1, "particle_distance": 100.0, "snr": SNR}
    simulate.run(SimulateSettings(out=folder / "sim", micrographs=4, **common))
    simulate.run(SimulateSettings(out=folder / "hidden", micrographs=3, seed=99, **common))
    random = np.random.default_rng(5)
    (folder / "real").mkdir()
    for index in range(3):
        clean, _ = read_mrc(folder / f"hidden/micrographs/mic_{index:06d}.mrc", 2)
        fine = fourier_crop(torch.tensor(clean), (384, 448)).numpy()
        # Noise of deviation 0.1 at 3 Å is white noise of 0.05 at 6 Å.
        image = np.linspace(0.95, 1.05, 448)[None] * fine + 0.1 * random.normal(size=fine.shape)
        write_mrc(folder / f"real/mic {index}.mrc", (400 * image).astype(np.float32), 3.0)
    return folder
