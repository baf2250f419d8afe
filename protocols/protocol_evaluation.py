# SPDX-License-Identifier: GPL-3.0-or-later
"""Base class of the protocols that compare with the truth: *evaluate picks* and *evaluate poses*."""
from typing import Any

from cryogem_scipion.protocols.protocol_stage import ProtCryogemStage

__all__ = ["ProtCryogemEvaluation"]


class ProtCryogemEvaluation(ProtCryogemStage):
    """A protocol that compares its input with true labels. The result is a report, which "Analyze Results" shows."""

    def createOutputStep(self, key: str) -> None:
        """Define no output: the report stays in the protocol's folder."""

    def _addQueue(self, form: Any) -> None:
        """Add the section for threads and queue of a stage that needs little computing time."""
        form.addParallelSection(threads=1, mpi=0)

    def _methods(self) -> list[str]:
        manifest = self.manifest()
        return self.resultSentences(manifest) if manifest else []
