"""What a report says, before it is a page, Markdown or JSON: frozen sections of facts, tables, code and figures.

Every text in it may come from a stranger (names, prompts, notes, a whole specification): it is kept as it is here, and
escaped by whoever writes it down. Torch-free.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphir.notebook_views import InNotebook

ROWS = 40
"""Rows of a table; how many there are besides is said below it."""


class Share(float):
    """A number shown in percent."""


class Name(str):
    """A text shown as code: the name of a node, a circuit, a hash."""


Cell = str | float | bool | None


@dataclass(frozen=True)
class Remark:
    """A sentence. `tone` is plain, good or bad."""

    text: str
    tone: str = "plain"


@dataclass(frozen=True)
class Facts:
    """What is to be said of one thing: names and values."""

    pairs: tuple[tuple[str, Cell], ...]


@dataclass(frozen=True)
class Table:
    """Rows under headers; `more` rows are left out. `folded`: a page shows the caption and opens with a click."""

    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    more: int = 0
    folded: bool = False


@dataclass(frozen=True)
class Code:
    """A text that is shown as it stands; `language` is circ, shell or empty."""

    text: str
    language: str = ""
    caption: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Series:
    """A line of a plot: its points (x, y), in order of x."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Plot:
    """Lines over a common axis, which is logarithmic and in percent, or, where `scale` is number, linear; `levels` are
    horizontal lines with their names. A table with the same numbers stands beside it."""

    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    levels: tuple[tuple[str, float], ...] = ()
    scale: str = "share"


@dataclass(frozen=True)
class Strip:
    """One row of a dot plot: single values, the interval around their mean, and one value to compare with."""

    name: str
    values: tuple[float, ...]
    interval: tuple[float, float] | None = None
    mark: float | None = None


@dataclass(frozen=True)
class Dots:
    """Values side by side in rows; `mark` says what the marks are. A table with the same numbers stands beside it."""

    title: str
    x: str
    mark: str
    strips: tuple[Strip, ...]


@dataclass(frozen=True)
class HeatMap:
    """A matrix over names, dark where values are small; `frames` are the places where a new block of names begins."""

    title: str
    names: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    label: str
    frames: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tree:
    """A dendrogram over names: merges (left, right, height) in order, the names being 0 … N − 1 and the k-th merge
    N + k; `cut` is the height at which it falls into the groups that a table beside it has."""

    title: str
    names: tuple[str, ...]
    merges: tuple[tuple[int, int, float], ...]
    label: str
    cut: float | None = None


@dataclass(frozen=True)
class Drawing:
    """A circuit as Graphviz drew it: SVG, which is not trusted. A table with its edges stands beside it."""

    title: str
    svg: str


Block = Remark | Facts | Table | Code | Plot | Dots | HeatMap | Tree | Drawing


@dataclass(frozen=True)
class Section:
    """Blocks under a title; `key` is what links lead to, unique in a report."""

    key: str
    title: str
    blocks: tuple[Block, ...] = ()
    sections: tuple[Section, ...] = ()


@dataclass(frozen=True)
class Report(InNotebook):
    """A report: `status` as the run's manifest says it (finished, checks failed, failed, interrupted). `to_html`,
    `to_markdown` and `to_json` have the same contents; a notebook shows the page."""

    title: str
    status: str
    sections: tuple[Section, ...]

    def section(self, key: str) -> Section:
        """The section of that key, at any level; `KeyError` otherwise."""
        for each in walk(self.sections):
            if each.key == key:
                return each
        raise KeyError(key)

    def to_html(self) -> str:
        """One page, self-contained: no script, nothing from elsewhere."""
        from dsl.report.page import render_page

        return render_page(self)

    def to_markdown(self) -> str:
        """As GitHub reads it; figures are their tables."""
        from dsl.report.markdown import render_markdown

        return render_markdown(self)

    def to_json(self) -> dict[str, Any]:
        """Plain data; figures are their numbers."""
        from dsl.report.data import report_data

        return report_data(self)

    def __str__(self) -> str:
        return self.to_markdown()

    def _repr_html_(self) -> str:
        from dsl.report.page import render_frame

        return render_frame(self)

    def _repr_mimebundle_(
        self, include: Collection[str] | None = None, exclude: Collection[str] | None = None
    ) -> dict[str, str]:
        """The page in a frame, which keeps its styles to itself, and Markdown."""
        made: dict[str, Callable[[], str]] = {
            "text/html": self._repr_html_,
            "text/markdown": self.to_markdown,
            "text/plain": lambda: repr(self),
        }
        wanted = [name for name in made if (include is None or name in include) and name not in (exclude or ())]
        return {name: made[name]() for name in wanted}

    def __repr__(self) -> str:
        return f"Report({self.title!r}, {self.status}, {len(self.sections)} sections)"


def walk(sections: Sequence[Section]) -> Iterator[Section]:
    """Sections and those within them, in order."""
    for each in sections:
        yield each
        yield from walk(each.sections)


def facts(pairs: Mapping[str, Any]) -> Facts:
    """The facts that say something: values of None and empty texts are left out."""
    return Facts(tuple((name, value) for name, value in pairs.items() if value is not None and value != ""))


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    caption: str = "",
    *,
    folded: bool = False,
    limit: int = ROWS,
) -> Table:
    """A table of the first `limit` rows."""
    shown = tuple(tuple(row) for row in rows[:limit])
    return Table(tuple(headers), shown, caption, max(0, len(rows) - limit), folded)


def cell_text(value: Cell) -> str:
    """A value as people read it: four digits, thousands separated, a dash where there is none."""
    from graphir.columns import number_text

    if isinstance(value, Share):
        return "-" if value != value else f"{100 * value:.4g}%"
    return number_text(value)


def is_number(value: Cell) -> bool:
    """Whether a value stands to the right of its column."""
    return isinstance(value, int | float) and not isinstance(value, bool)
