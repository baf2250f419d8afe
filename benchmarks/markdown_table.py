# SPDX-License-Identifier: GPL-3.0-or-later
"""A Markdown table, printed row by row while a benchmark runs; benchmarks/run.py copies it into RESULTS.md."""


class MarkdownTable:
    """Prints its head at once, then each row as it comes; numbers stand on the right."""

    def __init__(self, *columns):
        self.columns = columns
        print(f"| {' | '.join(columns)} |")
        print("|---" + "|---:" * (len(columns) - 1) + "|", flush=True)

    def row(self, first, *cells):
        """Print one row; cells are as wide as the head, so that the table can be read in a terminal."""
        if 1 + len(cells) != len(self.columns):
            raise ValueError(f"a row of {1 + len(cells)} cells in a table of {len(self.columns)} columns")
        widths = [len(column) for column in self.columns]
        padded = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))]
        print(f"| {' | '.join(padded)} |", flush=True)
