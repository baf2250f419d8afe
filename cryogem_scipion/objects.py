# SPDX-License-Identifier: GPL-3.0-or-later
"""Scipion objects of this plugin."""
import math
from pathlib import Path

from pwem.objects import EMObject
from pyworkflow.object import Float, Integer, String

__all__ = ["CryogemMeasurement", "CryogemModel", "CryogemPoseModel", "EngineResult"]

BOX_DIAMETERS = 1.5
"""Edge of a box over the diameter of the particle, as in the simulation."""


class EngineResult(EMObject):
    """A file of an engine run, with the pixel size for which it holds."""

    def __init__(self, filename=None, **kwargs):
        EMObject.__init__(self, **kwargs)
        self._filename = String(filename)
        self._samplingRate = Float()

    def getFileName(self):
        """Return the path of model.safetensors, or of a measurement's settings.json."""
        return self._filename.get()

    def setFileName(self, filename):
        self._filename.set(filename)

    def getFolder(self):
        """Return the folder of the run, with its manifest, tables and figures."""
        return str(Path(self.getFileName()).parent)

    def getSamplingRate(self):
        """Return the working pixel size, Å."""
        return self._samplingRate.get()

    def setSamplingRate(self, pixel_size):
        self._samplingRate.set(pixel_size)

    def getFiles(self):
        return {self.getFileName()}


class _NoisyResult(EngineResult):
    """A result that holds for one signal-to-noise ratio."""

    def __init__(self, filename=None, **kwargs):
        EngineResult.__init__(self, filename, **kwargs)
        self._snr = Float()

    def getSnr(self):
        """Return the signal-to-noise ratio at the working pixel size."""
        return self._snr.get()

    def setSnr(self, snr):
        self._snr.set(snr)


class CryogemModel(_NoisyResult):
    """A noise model: the trained noise translator for one microscope and specimen."""

    def __init__(self, filename=None, **kwargs):
        _NoisyResult.__init__(self, filename, **kwargs)
        self._crop = Integer()
        self._steps = Integer()

    def getCrop(self):
        """Return the edge of the training crops, px."""
        return self._crop.get()

    def setCrop(self, crop):
        self._crop.set(crop)

    def getSteps(self):
        """Return the number of training steps."""
        return self._steps.get()

    def setSteps(self, steps):
        self._steps.set(steps)

    def __str__(self):
        parts = [f"{self.getSamplingRate():.2f} Å/px" if self._samplingRate.hasValue() else "",
                 f"{self.getSteps()} steps" if self._steps.hasValue() else "",
                 f"SNR {self.getSnr():.3g}" if self._snr.hasValue() else ""]
        return f"CryogemModel ({', '.join(filter(None, parts)) or 'empty'})"


class CryogemPoseModel(EngineResult):
    """A pose estimator, trained on particles with known poses."""

    def __init__(self, filename=None, **kwargs):
        EngineResult.__init__(self, filename, **kwargs)
        self._symmetry = String()
        self._diameter = Float()
        self._steps = Integer()
        self._error = Float()
        self._classes = Integer()

    def getSymmetry(self):
        """Return the point group of the particle."""
        return self._symmetry.get()

    def setSymmetry(self, symmetry):
        self._symmetry.set(symmetry)

    def getDiameter(self):
        """Return the diameter of the circle that the network sees, Å."""
        return self._diameter.get()

    def setDiameter(self, diameter):
        self._diameter.set(diameter)

    def getSteps(self):
        """Return the number of training steps."""
        return self._steps.get()

    def setSteps(self, steps):
        self._steps.set(steps)

    def getError(self):
        """Return the median angular error on held-out particles of the training set, degrees."""
        return self._error.get()

    def setError(self, degrees):
        self._error.set(degrees)

    def getClasses(self):
        """Return the number of maps that the pose estimator tells apart."""
        return self._classes.get()

    def setClasses(self, count):
        self._classes.set(count)

    def __str__(self):
        parts = [self.getSymmetry() or "",
                 f"diameter {self.getDiameter():.0f} Å" if self._diameter.hasValue() else "",
                 f"{self.getSteps()} steps" if self._steps.hasValue() else "",
                 f"error {self.getError():.2g}°" if self._error.hasValue() else "",
                 f"{self.getClasses()} maps" if (self.getClasses() or 1) > 1 else ""]
        return f"CryogemPoseModel ({', '.join(filter(None, parts)) or 'empty'})"


class CryogemMeasurement(_NoisyResult):
    """What a simulation needs, as measured on real micrographs; values that were not measured are empty."""

    def __init__(self, filename=None, **kwargs):
        _NoisyResult.__init__(self, filename, **kwargs)
        self._micrographs = Integer()
        self._particles = Integer()
        self._defocusMin = Float()
        self._defocusMax = Float()
        self._radius = Integer()
        self._box = Integer()

    def getMicrographs(self):
        """Return the number of micrographs that were measured."""
        return self._micrographs.get()

    def setMicrographs(self, count):
        self._micrographs.set(count)

    def getParticles(self):
        """Return the mean number of particles in a micrograph, rounded."""
        return self._particles.get()

    def setParticles(self, count):
        self._particles.set(count)

    def getDefocusRange(self):
        """Return the smallest and the largest defocus, Å."""
        return self._defocusMin.get(), self._defocusMax.get()

    def setDefocusRange(self, smallest, largest):
        self._defocusMin.set(smallest)
        self._defocusMax.set(largest)

    def getRadius(self):
        """Return the radius of the particle at the working pixel size, px: for pickers."""
        return self._radius.get()

    def getBox(self):
        """Return the edge of a box for the particles of the real micrographs, px of these."""
        return self._box.get()

    def setDiameter(self, diameter, working_pixel_size, own_pixel_size):
        """Set radius and box from the particle's diameter and the two pixel sizes (all in Å)."""
        self._radius.set(max(1, round(diameter / 2 / working_pixel_size)))
        self._box.set(4 * math.ceil(BOX_DIAMETERS * diameter / own_pixel_size / 4))  # even after binning by 2, too

    def __str__(self):
        smallest, largest = self.getDefocusRange()
        parts = [f"{self.getMicrographs()} micrographs" if self._micrographs.hasValue() else "",
                 f"{self.getParticles()} particles each" if self._particles.hasValue() else "",
                 f"SNR {self.getSnr():.3g}" if self._snr.hasValue() else "",
                 "" if None in (smallest, largest) else f"defocus {smallest / 1e4:.2f} to {largest / 1e4:.2f} µm"]
        return f"CryogemMeasurement ({', '.join(filter(None, parts)) or 'empty'})"
