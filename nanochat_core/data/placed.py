"""A document and where it is from: what leads from a row of a training back to a line of a file."""

from typing import NamedTuple


class PlacedText(NamedTuple):
    """A document with its place."""

    text: str
    file: str = ""
    """As notes and errors call it; empty where nobody says."""
    line: int = 0
    """From 1: a line of JSON lines, an item of a list, a row of a table; of a piece of a text file its first line."""
