"""The elements of a report: sections, sentences, tables, pictures. Values; nothing is escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Plot(Protocol):
    """Something to draw, numbers and all."""

    def draw(self, *kinds: str, narrow: bool = False) -> tuple[bytes, ...]:
        """The drawing as a file's content, one for each kind, in the colours of a light page.

        Args:
            kinds: ``png``, ``svg``.
            narrow: for a phone.
        """


@dataclass(frozen=True)
class Table:
    """A table as text. The first column names the row.

    Attributes:
        name: unique in the report.
        caption: a sentence or two below it.
        ends_in_verdict: whether the last column is a verdict or an outcome.
        wraps: headings of columns whose cells may take two lines if the page is too narrow.
    """

    name: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    ends_in_verdict: bool = False
    wraps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: unique in the report; its files are called so.
        alt: what it shows, for those who cannot see it.
    """

    name: str
    alt: str
    caption: str
    plot: Plot


@dataclass(frozen=True)
class Photo:
    """A picture made of pixels.

    Attributes:
        name: unique in the report; its file is called so.
        alt: what it shows, for those who cannot see it.
        caption: above it where it stands among others, else below.
        content: a PNG file.
    """

    name: str
    alt: str
    caption: str
    content: bytes

    @property
    def address(self) -> str:
        """The picture as an address that holds it."""
        return f"data:image/png;base64,{base64.b64encode(self.content).decode()}"


@dataclass(frozen=True)
class Strip:
    """Pictures side by side, below a heading; one alone may take the page's width."""

    heading: str
    photos: tuple[Photo, ...]


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, in this order."""

    name: str
    title: str
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    strips: tuple[Strip, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.sentences or self.tables or self.pictures or self.strips)


@dataclass(frozen=True)
class Failure:
    """A trial that failed, and why."""

    name: str
    reason: str
    run_id: str


def non_empty(sections: Sequence[Section]) -> tuple[Section, ...]:
    """Those that hold anything."""
    return tuple(section for section in sections if section)
