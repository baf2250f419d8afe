# SPDX-License-Identifier: GPL-3.0-or-later
"""Installation of CryoGEM for Scipion; it reads the version as text and does not import the package."""
import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).resolve().parent
version = re.search(r'^__version__ = "(.+)"', (here / "cryogem_scipion/__init__.py").read_text("utf-8"), re.M)

# The tests run with the newest versions; .ci/oldest.txt has the oldest of each range.
engine = ["torch>=2.4,<2.14", "ducc0>=0.37.1,<0.43", "threadpoolctl>=3.5,<4", "numba>=0.60,<0.69",
          "gemmi>=0.7,<0.8", "safetensors>=0.4.5,<0.9", "cryosparc-tools>=4.5,<6"]
scipion = ["scipion-pyworkflow>=3.11.2,<4", "scipion-em>=3.11,<4"]
shared = ["numpy>=1.26,<3", "scipy>=1.10", "mrcfile>=1.4.3,<2", "starfile>=0.5.10,<0.6", "pydantic>=2.7,<3",
          "tqdm>=4.60,<5", "matplotlib>=3.8", "jaxtyping>=0.2.30"]

setup(
    name="scipion-em-cryogem",
    version=version[1],
    description="Scipion plugin: labelled synthetic cryo-EM micrographs with the noise of your own microscope",
    long_description=(here / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="GPL-3.0-or-later",
    keywords="scipion scipion-3.0 cryo-em electron-microscopy structural-biology simulation deep-learning",
    classifiers=["Development Status :: 4 - Beta", "Intended Audience :: Science/Research",
                 "Programming Language :: Python :: 3", "Topic :: Scientific/Engineering :: Bio-Informatics"],
    python_requires=">=3.10",
    packages=find_packages(include=["cryogem_scipion", "cryogem_scipion.*"]),
    include_package_data=True,
    install_requires=shared + engine + scipion,
    extras_require={
        "engine": engine,
        "scipion": scipion,
        # setuptools: a test builds the package; older versions need the package wheel for it.
        "test": ["pytest>=8,<10", "pytest-xdist>=3.6.1,<4", "beartype>=0.18", "hypothesis>=6", "tensorboard>=2.14",
                 "setuptools>=70.1"],
        # Scipion plugins that the optional tests run on our data sets.
        "optional": ["scipion-em-topaz>=3.1.2,<4", "scipion-em-relion>=5.0.2,<6"],
        "lint": ["ruff==0.17.*", "mypy>=1.11", "pre-commit>=4,<5"],
        # docs/architecture says why these.
        "docs": ["sphinx>=9,<10", "myst-parser>=5,<6", "furo>=2025.12"],
    },
    entry_points={
        "pyworkflow.plugin": "cryogem_scipion = cryogem_scipion",
        "console_scripts": "cryogem = cryogem_scipion.__main__:main",
    },
)
