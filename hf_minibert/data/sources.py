"""What a source of text may be called; importing this reads nothing and takes no time."""

from typing import Literal

DocumentUnit = Literal["file", "blank-line", "line"]
"""What a document of a text file is."""
