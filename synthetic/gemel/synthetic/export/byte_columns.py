"""Many lines of one wording at once: a template of bytes whose slots are columns, written where each line belongs.

No object stands for a line: what is equal in all of them is copied, and each column is put into its slot.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]

# A slot for what is no text stands where a JSON string would.
_SLOT = re.compile(rb'"#(\w+)#"|@(\w+)@')


class Column(NamedTuple):
    """What a slot says, line by line.

    Attributes:
        text: uint8 (m, w). lengths: int64 (m,), how much of each counts; None when all of it does, in every line.
    """

    text: Bytes
    lengths: Places | None = None

    def counts(self) -> Places:
        """How much of each text counts, int64 (m,)."""
        whole = np.full(len(self.text), self.text.shape[1], np.int64)
        return whole if self.lengths is None else self.lengths


def column_of(texts: Sequence[bytes], places: Places) -> Column:
    """The column (m,) of texts[places]."""
    padded = np.array(texts, np.bytes_)
    text = padded.view(np.uint8).reshape(len(padded), -1)
    lengths = np.array([len(text) for text in texts], np.int64)
    same = bool(np.all(lengths == text.shape[1]))
    return Column(text[places], None if same else lengths[places])


def windows(content: Bytes, length: int) -> Bytes:
    """Every run of so many bytes of a content, (bytes - length + 1, length), as a view."""
    return np.ndarray((len(content) - length + 1, length), np.uint8, content.data, strides=(1, 1))


class _Run(NamedTuple):
    """Bytes that are as long in every line, with the columns that stand in them, and then a column that is not."""

    literal: bytes
    inside: list[tuple[int, Bytes]]
    then: Column | None


class Lines:
    """Lines of one wording.

    Args:
        template: A line with slots: `@name@` in strings, `"#name#"` for what is none.
        columns: By slot, of as many lines (m,) as there are.
    """

    def __init__(self, template: bytes, columns: Mapping[str, Column]) -> None:
        self._runs = _runs(template, columns)
        self._number = max(len(column.text) for column in columns.values())

    def lengths(self) -> Places:
        """Of each line, int64 (m,)."""
        total = np.full(self._number, sum(len(run.literal) for run in self._runs), np.int64)
        for run in self._runs:
            if run.then is not None:
                total += run.then.counts()
        return total

    def write(self, content: Bytes, starts: Places) -> None:
        """Put each line into a content, from its start on."""
        at, places = starts, []
        for run in self._runs:
            places.append(at)
            at = at + len(run.literal)
            if run.then is not None:
                # Padding and all: the next run is longer than the padding, and written later.
                windows(content, run.then.text.shape[1])[at] = run.then.text
                at = at + run.then.counts()
        for run, at in zip(self._runs, places, strict=True):
            text = np.empty((self._number, len(run.literal)), np.uint8)
            text[:] = np.frombuffer(run.literal, np.uint8)
            for first, column in run.inside:
                text[:, first : first + column.shape[1]] = column
            windows(content, len(run.literal))[at] = text


def _runs(template: bytes, columns: Mapping[str, Column]) -> list[_Run]:
    runs, literal, inside, at = list[_Run](), b"", list[tuple[int, Bytes]](), 0
    for slot in _SLOT.finditer(template):
        column = columns[(slot[1] or slot[2]).decode()]
        literal += template[at : slot.start()]
        at = slot.end()
        if column.lengths is None:
            inside.append((len(literal), column.text))
            literal += bytes(column.text.shape[1])
        else:
            runs.append(_Run(literal, inside, column))
            literal, inside = b"", []
    runs.append(_Run(literal + template[at:], inside, None))
    for before, after in itertools.pairwise(runs):
        if before.then is not None and len(after.literal) < before.then.text.shape[1]:
            raise ValueError("What follows a slot of varying length must be longer than the slot.")
    return runs
