# SPDX-License-Identifier: GPL-3.0-or-later
"""The errors that are raised on purpose.

A message says the cause, the value found and the remedy. The command line prints it and exits
with status 2; every other exception is a defect and keeps its traceback.
"""

__all__ = ["CheckpointError", "CryogemError", "DataError", "SettingsError"]


class CryogemError(Exception):
    """Raised on purpose; the message is meant for the user."""


class SettingsError(CryogemError, ValueError):
    """A setting is out of range, or two settings contradict each other."""


class DataError(CryogemError, ValueError):
    """An input file or array is unusable."""


class CheckpointError(CryogemError):
    """A model file or checkpoint is damaged, newer than this program, or of another program."""
