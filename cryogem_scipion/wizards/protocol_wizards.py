# SPDX-License-Identifier: GPL-3.0-or-later
"""Scipion's wizards: what each wand beside a field shows, and which fields it fills."""
from typing import Any

from pyworkflow.wizard import Wizard

from cryogem_scipion.engine.errors import CryogemError, DataError
from cryogem_scipion.engine.settings import SimulateSettings, parse
from cryogem_scipion.protocols import ProtCryogemSimulate
from cryogem_scipion.wizards import windows
from cryogem_scipion.wizards.pictures import draw_counts, draw_field, draw_masks, draw_particle
from cryogem_scipion.wizards.previews import counts, fields, particle
from cryogem_scipion.wizards.windows import Page, Slider

__all__ = ["CryogemCountWizard", "CryogemMaskWizard", "CryogemParticleWizard", "CryogemPixelSizeWizard"]


class _CryogemWizard(Wizard):
    """Makes a page for a form, opens it, and puts what was chosen into the form."""

    def page(self, form: Any) -> Page | None:
        """Return what to show; None when the user thought better of it."""
        raise NotImplementedError

    def show(self, form: Any, *parameters: Any) -> None:
        """Called by Scipion when the wand is pressed."""
        try:
            page = self.page(form)
        except CryogemError as error:
            windows.complain(form.root, "Wizard", str(error))
            return
        chosen = windows.ask(form.root, page) if page else None
        for slider in page.sliders if page and chosen else ():
            value = chosen[slider.parameter]
            if not (slider.derived and value == slider.value):
                form.setVar(slider.parameter, value)


class CryogemParticleWizard(_CryogemWizard):
    """Box size and distance of the particles, seen on views of the map."""

    _targets = [(ProtCryogemSimulate, ["boxSize", "particleDistance"])]

    def page(self, form: Any) -> Page:
        protocol = form.protocol
        found = windows.busy(form.root, "Looking at the map…", lambda: particle(protocol))
        diameter, pixel_size = found.diameter_angstrom, found.pixel_size
        box, distance = protocol.boxSize.get(), protocol.particleDistance.get()
        natural = round((1 - protocol.overlap.get()) * diameter)
        sliders = (
            Slider("boxSize", "Box size (px)", box or found.box_size, 2 * round(diameter / pixel_size / 4),
                   4 * round(diameter / pixel_size), 1 if (box or 0) % 2 else 2, derived=box is None),
            Slider("particleDistance", "Smallest distance (Å)", natural if distance is None else distance,
                   round(diameter / 4), round(3 * diameter), 1, derived=distance is None))
        return Page("Box size and distance of the particles", (11, 4.2), sliders,
                    lambda figure, *values: draw_particle(figure, found, *values))


class CryogemMaskWizard(_CryogemWizard):
    """Threshold of the particles' masks, with its outline on views of the map."""

    _targets = [(ProtCryogemSimulate, ["maskThreshold"])]

    def page(self, form: Any) -> Page:
        found = windows.busy(form.root, "Looking at the map…", lambda: particle(form.protocol))
        slider = Slider("maskThreshold", "Mask threshold", form.protocol.maskThreshold.get(), 0.01, 0.9, 0.01)
        return Page("Mask threshold", (11, 3.0), (slider,), lambda figure, value: draw_masks(figure, found, value))


class CryogemPixelSizeWizard(_CryogemWizard):
    """Working pixel size, seen on the first real micrograph."""

    _targets = [(ProtCryogemSimulate, ["pixelSize"])]

    def page(self, form: Any) -> Page:
        protocol = form.protocol
        found = windows.busy(form.root, "Resampling a micrograph…", lambda: fields(protocol))
        wanted = protocol.settingsValues().get("pixel_size") or 5.0
        nearest = min(found.pixel_sizes, key=lambda size: abs(size - wanted))
        slider = Slider("pixelSize", "Working pixel size (Å)", nearest, choices=found.pixel_sizes)
        return Page("Working pixel size", (7.5, 7.5), (slider,), lambda figure, value: draw_field(figure, found, value))


class CryogemCountWizard(_CryogemWizard):
    """Particles per micrograph, estimated from picked coordinates of the project."""

    _targets = [(ProtCryogemSimulate, ["particlesMean", "particlesSigma"])]

    def page(self, form: Any) -> Page | None:
        sets = picked_sets(form.protocol)
        if not sets:
            raise DataError("the project has no picked coordinates to count; pick particles in some micrographs, or "
                            "import coordinates")
        place = windows.choose(form.root, "Coordinates to count", [name for name, _ in sets],
                               "Picked particles of micrographs like those to be simulated.")
        if place is None:
            return None
        found = counts(sets[place][1], *simulated_field(form.protocol))
        mean, deviation = round(found.mean, 1), round(found.deviation, 1)
        sliders = (Slider("particlesMean", "Mean", mean, 0.0, max(10.0, 3 * mean), 0.1),
                   Slider("particlesSigma", "Deviation", deviation, 0.0, max(5.0, 4 * deviation), 0.1))
        return Page("Particles per micrograph", (8, 5), sliders,
                    lambda figure, *values: draw_counts(figure, found, *values))


def picked_sets(protocol: Any) -> list[tuple[str, Any]]:
    """Return the project's sets of coordinates with a name for people; those of our own simulations are left out."""
    found = []
    for run in protocol.getProject().getRuns(refresh=False):
        if run.getClassName().startswith("ProtCryogem"):
            continue
        found += [(f"{run.getRunName()}, {name} ({output.getSize()} particles)", output)
                  for name, output in run.iterOutputAttributes() if output.getClassName() == "SetOfCoordinates"]
    return found


def simulated_field(protocol: Any) -> tuple[tuple[int, int], float]:
    """Return size (y, x; px) and pixel size (Å) of the micrographs that a form asks for.

    Raises
    ------
    DataError
        The form does not tell the pixel size.
    """
    if not protocol.inputsReady():
        raise DataError("the size of the field is not known; choose a map first")
    settings = parse(SimulateSettings, protocol.settingsValues())
    pixel_size = settings.pixel_size or settings.volume_pixel_size
    if pixel_size is None:
        raise DataError("the size of the field is not known; set the working pixel size first")
    return settings.micrograph_size, pixel_size
