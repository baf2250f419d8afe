# SPDX-License-Identifier: GPL-3.0-or-later
"""The magic wands of the forms: a picture, sliders, and the values that were chosen go into the form."""
from cryogem_scipion.wizards.protocol_wizards import (
    CryogemCountWizard,
    CryogemMaskWizard,
    CryogemParticleWizard,
    CryogemPixelSizeWizard,
)

__all__ = ["CryogemCountWizard", "CryogemMaskWizard", "CryogemParticleWizard", "CryogemPixelSizeWizard"]
