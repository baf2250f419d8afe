# SPDX-License-Identifier: GPL-3.0-or-later
"""Scipion's wizards: the figure that each wizard shows, and the form fields that it sets."""
from typing import Any

from pyworkflow.wizard import Wizard

from cryogem_scipion.engine.errors import CryogemError, DataError
from cryogem_scipion.engine.settings import SimulateSettings, parse
from cryogem_scipion.protocols import ProtCryogemMeasure, ProtCryogemSimulate, ProtCryogemTrainPoses
from cryogem_scipion.wizards import dialogs
from cryogem_scipion.wizards.dialogs import Page, Slider
from cryogem_scipion.wizards.figures import (
    draw_masks,
    draw_micrograph_field,
    draw_particle_circle,
    draw_particle_numbers,
    draw_particle_views,
)
from cryogem_scipion.wizards.previews import micrograph_fields, particle_images, particle_numbers, particle_views

__all__ = ["CryogemCountWizard", "CryogemDiameterWizard", "CryogemMaskWizard", "CryogemParticleWizard",
           "CryogemPixelSizeWizard"]


DEFAULT_DIAMETER = 0.6
"""Diameter of the circle over the edge of the box, where neither the form nor the particles' dataset has one."""


class _CryogemWizard(Wizard):
    """Opens a window for a form, and sets the form's fields to the chosen values."""

    def page(self, form: Any) -> Page | None:
        """Return the content of the window; ``None`` when the user has cancelled."""
        raise NotImplementedError

    def show(self, form: Any, *parameters: Any) -> None:
        """Open the window; Scipion calls this when the user clicks on the wizard."""
        try:
            page = self.page(form)
        except CryogemError as error:
            dialogs.show_error(form.root, "Wizard", str(error))
            return
        values = dialogs.ask_values(form.root, page) if page else None
        for slider in page.sliders if page and values else ():
            value = values[slider.parameter]
            if not (slider.derived and value == slider.value):
                form.setVar(slider.parameter, value)


class CryogemParticleWizard(_CryogemWizard):
    """Box size and particle distance, shown on views of the map."""

    _targets = [(ProtCryogemSimulate, ["boxSize", "particleDistance"])]

    def page(self, form: Any) -> Page:
        protocol = form.protocol
        views = dialogs.run_with_message(form.root, "Computing views of the map…", lambda: particle_views(protocol))
        diameter, pixel_size = views.diameter_angstrom, views.pixel_size
        box, distance = protocol.boxSize.get(), protocol.particleDistance.get()
        default_distance = round((1 - protocol.overlap.get()) * diameter)
        sliders = (
            Slider("boxSize", "Box size (px)", box or views.box_size, 2 * round(diameter / pixel_size / 4),
                   4 * round(diameter / pixel_size), 1 if (box or 0) % 2 else 2, derived=box is None),
            Slider("particleDistance", "Smallest distance (Å)", default_distance if distance is None else distance,
                   round(diameter / 4), round(3 * diameter), 1, derived=distance is None))
        return Page("Box size and distance of the particles", (11, 4.2), sliders,
                    lambda figure, *values: draw_particle_views(figure, views, *values))


class CryogemMaskWizard(_CryogemWizard):
    """Mask threshold, shown as the masks' outlines on views of the map."""

    _targets = [(ProtCryogemSimulate, ["maskThreshold"])]

    def page(self, form: Any) -> Page:
        views = dialogs.run_with_message(form.root, "Computing views of the map…",
                                         lambda: particle_views(form.protocol))
        slider = Slider("maskThreshold", "Mask threshold", form.protocol.maskThreshold.get(), 0.01, 0.9, 0.01)
        return Page("Mask threshold", (11, 3.0), (slider,), lambda figure, value: draw_masks(figure, views, value))


class CryogemPixelSizeWizard(_CryogemWizard):
    """Working pixel size, shown on the first real micrograph."""

    _targets = [(ProtCryogemSimulate, ["pixelSize"]), (ProtCryogemMeasure, ["pixelSize"])]

    def page(self, form: Any) -> Page:
        protocol = form.protocol
        fields = dialogs.run_with_message(form.root, "Resampling a micrograph…", lambda: micrograph_fields(protocol))
        current = protocol.settingsValues().get("pixel_size") or 5.0
        nearest = min(fields.pixel_sizes, key=lambda size: abs(size - current))
        slider = Slider("pixelSize", "Working pixel size (Å)", nearest, choices=fields.pixel_sizes)
        return Page("Working pixel size", (7.5, 7.5), (slider,),
                    lambda figure, value: draw_micrograph_field(figure, fields, value))


class CryogemCountWizard(_CryogemWizard):
    """Particles per micrograph, estimated from picked coordinates in the project."""

    _targets = [(ProtCryogemSimulate, ["particlesMean", "particlesSigma"])]

    def page(self, form: Any) -> Page | None:
        sets = picked_sets(form.protocol)
        if not sets:
            raise DataError("the project has no picked coordinates to count; pick particles in some micrographs, or "
                            "import coordinates")
        index = dialogs.choose_from_list(form.root, "Coordinates to count", [name for name, _ in sets],
                               "Choose coordinates that were picked on micrographs like the ones that you want to "
                               "simulate.")
        if index is None:
            return None
        numbers = particle_numbers(sets[index][1], *simulated_field(form.protocol))
        mean, deviation = round(numbers.mean, 1), round(numbers.deviation, 1)
        sliders = (Slider("particlesMean", "Mean", mean, 0.0, max(10.0, 3 * mean), 0.1),
                   Slider("particlesSigma", "Deviation", deviation, 0.0, max(5.0, 4 * deviation), 0.1))
        return Page("Particles per micrograph", (8, 5), sliders,
                    lambda figure, *values: draw_particle_numbers(figure, numbers, *values))


class CryogemDiameterWizard(_CryogemWizard):
    """Diameter of the circle that a pose estimator sees, shown on particles and their average."""

    _targets = [(ProtCryogemTrainPoses, ["diameterAngstrom"])]

    def page(self, form: Any) -> Page:
        protocol = form.protocol
        images = particle_images(protocol.inputParticles.get())
        diameter = protocol.settingsValues().get("diameter_angstrom") or DEFAULT_DIAMETER * images.box_angstrom
        slider = Slider("diameterAngstrom", "Diameter (Å)", round(diameter), round(0.2 * images.box_angstrom),
                        round(images.box_angstrom), 1, derived=protocol.diameterAngstrom.get() is None)
        return Page("Diameter of the particle", (12, 3.6), (slider,),
                    lambda figure, value: draw_particle_circle(figure, images, value))


def picked_sets(protocol: Any) -> list[tuple[str, Any]]:
    """Return the project's sets of coordinates with their display names, without those of our own protocols."""
    sets = []
    for run in protocol.getProject().getRuns(refresh=False):
        if run.getClassName().startswith("ProtCryogem"):
            continue
        sets += [(f"{run.getRunName()}, {name} ({output.getSize()} particles)", output)
                 for name, output in run.iterOutputAttributes() if output.getClassName() == "SetOfCoordinates"]
    return sets


def simulated_field(protocol: Any) -> tuple[tuple[int, int], float]:
    """Return the size (y, x; px) and pixel size (Å) of the micrographs that a form would simulate.

    Raises
    ------
    DataError
        The form has no map, or no pixel size.
    """
    if not protocol.inputsReady():
        raise DataError("the size of the simulated micrographs is not known; choose a map first")
    settings = parse(SimulateSettings, protocol.settingsValues())
    pixel_size = settings.pixel_size or settings.volume_pixel_size
    if pixel_size is None:
        raise DataError("the size of the simulated micrographs is not known; set the working pixel size first")
    return settings.micrograph_size, pixel_size
