# SPDX-License-Identifier: GPL-3.0-or-later
"""Checker of types and array shapes in tests. It accepts an int where a float is declared, as mypy does."""
from beartype import BeartypeConf, beartype

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))
