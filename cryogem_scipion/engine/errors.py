# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors that the user can mend.

Each message gives the cause, the value found and the remedy. The command line prints the message and exits with status
2. Every other exception is a bug, and its traceback is shown.
"""

__all__ = ["CheckpointError", "CryogemError", "DataError", "SettingsError"]


class CryogemError(Exception):
    """Base of all errors whose message is written for the user."""


class SettingsError(CryogemError, ValueError):
    """A setting is out of range, or two settings contradict each other."""


class DataError(CryogemError, ValueError):
    """An input file or array cannot be used."""


class CheckpointError(CryogemError):
    """A model file or checkpoint is damaged, of a newer version, or of another program."""
