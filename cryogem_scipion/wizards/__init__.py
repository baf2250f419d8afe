# SPDX-License-Identifier: GPL-3.0-or-later
"""Wizards of the forms: a figure with sliders, whose values go into the form."""
from cryogem_scipion.wizards.protocol_wizards import (
    CryogemCountWizard,
    CryogemDiameterWizard,
    CryogemMaskWizard,
    CryogemParticleWizard,
    CryogemPixelSizeWizard,
)

__all__ = ["CryogemCountWizard", "CryogemDiameterWizard", "CryogemMaskWizard", "CryogemParticleWizard",
           "CryogemPixelSizeWizard"]
