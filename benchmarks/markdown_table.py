# SPDX-License-Identifier: GPL-3.0-or-later
"""A Markdown table, printed row by row while a benchmark runs; benchmarks/run.py copies it into RESULTS.md."""


class MarkdownTable:
    """Prints its head at once and each row as it comes; all columns but the first are aligned on the right."""

    def __init__(self, *columns):
        self.columns = columns
        self.row(*columns)
        print("|---" + "|---:" * (len(columns) - 1) + "|", flush=True)

    def row(self, *cells):
        """Print one row."""
        if len(cells) != len(self.columns):
            raise ValueError(f"a row of {len(cells)} cells in a table of {len(self.columns)} columns")
        print(f"| {' | '.join(cells)} |", flush=True)
