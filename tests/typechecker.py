# SPDX-License-Identifier: GPL-3.0-or-later
"""What checks types and array shapes while testing: as type checkers do, it takes a whole number for a float."""
from beartype import BeartypeConf, beartype

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))
