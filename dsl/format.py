"""The canonical layout of a file: `circ fmt`.

Tokens are laid out anew; line breaks inside a block or between clauses are kept as one decision (all or none), blank
lines as at most one, comments all. The result is checked before it is given: it means the same, is a fixed point, and
has every comment.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dsl import tree
from dsl.parse import parse
from dsl.spec import SpecError
from dsl.tokens import read_tokens
from graphir.diagnostics import Source
from graphir.errors import GraphirError

if TYPE_CHECKING:
    from dsl.lexer import Token

WIDTH = 100
INDENT = "  "
TIGHT_BEFORE = {"COMMA", "RPAR", "RSQB", "COLON", "DOTS", "POWER"}
TIGHT_AFTER = {"LPAR", "LSQB", "DOTS", "POWER", "TILDE"}
OPERANDS = {"NAME", "PATH", "NUMBER", "STRING", "RPAR", "RSQB", "FIELD"}
CLAUSED = (tree.Circuit, tree.Query, tree.Composition)
ENTRY_GAP = "  "
PASSES = 3
HINTS = ("please report this file; it was left as it is",)


class FormatError(GraphirError):
    """The formatter would have changed a file's meaning: a bug here, never the user's mistake. Nothing was written."""


def format_text(source: Source) -> str:
    """The text in canonical layout. `SpecError` when it cannot be parsed, `FormatError` when a safety check fails."""
    parsed = parse(source)
    if parsed.diagnostics:
        raise SpecError(parsed.diagnostics)
    result = _Layout(source, parsed.file).text()
    for _ in range(PASSES):
        again = _verified(source, parsed.file, result)
        if again == result:
            return result
        result = again  # what is too wide for its line only with its blanks is known once these are there
    raise FormatError("formatting twice would change the file again", HINTS)


def _verified(source: Source, before: tree.File, result: str) -> str:
    """What formatting makes of its own result, which must mean what the file means."""
    after = parse(Source(source.name, result))
    if after.diagnostics or after.file != before:
        raise FormatError("formatting would change what the file means", HINTS)
    if sorted(c.text for c in after.file.comments) != sorted(c.text for c in before.comments):
        raise FormatError("formatting would lose a comment", HINTS)
    return _Layout(after.file.source, after.file).text()


@dataclass(eq=False)
class _Block:
    """Braces of a section or of an entry: offsets, where what they hold starts and stops, and whether it stays on one
    line."""

    open: int
    close: int
    starts: tuple[int, ...]
    stops: tuple[int, ...]
    inline: bool

    def is_between(self, offset: int) -> bool:
        """Whether an offset lies between entries."""
        before = bisect.bisect_right(self.starts, offset) - 1
        return before < 0 or offset >= self.stops[before]


@dataclass
class _Line:
    """One line of output. `blank` asks for an empty line before it."""

    level: int
    text: str = ""
    blank: bool = False
    comments: list[str] = field(default_factory=list)
    starts_section: bool = False
    is_comment: bool = False


class _Layout:
    """Lays out one file."""

    def __init__(self, source: Source, file: tree.File) -> None:
        read = read_tokens(source)
        self.source = source
        self.tokens: list[Token] = read.tokens
        self.comments: list[Token] = read.comments
        self.starts = [token.start_pos for token in self.tokens]
        self.comment_starts = [comment.start_pos for comment in self.comments]
        self.blocks: dict[int, _Block] = {}
        self.closing: dict[int, _Block] = {}
        self.sections = {section.span.start for section in file.sections}
        self.clauses: set[int] = set()
        self.tight: set[int] = set()
        self.lines: list[_Line] = []
        self.previous: Token | None = None
        for section in file.sections:
            self._plan_section(section)
        self.holders, self.depths = self._nesting()

    # What goes on lines of its own

    def _plan_section(self, section: tree.Section) -> None:
        for node in tree.walk(section):
            if isinstance(node, tree.Block):
                self._plan_block(node.span.start, node.span.stop - 1, node.entries)
            elif isinstance(node, tree.Task | tree.Subtask) and node.statements:
                behind = node.where.span.stop if isinstance(node, tree.Subtask) and node.where else node.name.span.stop
                self._plan_block(self._brace_behind(behind), node.span.stop - 1, node.statements)
            elif isinstance(node, tree.Selected | tree.Set):
                self._plan_brackets(node)
        if isinstance(section, tree.Task) and not section.statements:
            self._plan_block(self._brace_behind(section.name.span.stop), section.span.stop - 1, ())
        elif isinstance(section, tree.Check):
            self._plan_block(self._brace_behind(section.circuit.span.stop), section.span.stop - 1, section.conditions)
        clauses = self._clauses(section)
        if clauses and self._is_broken(section, clauses):
            self.clauses.update(clauses)

    def _clauses(self, section: tree.Section) -> list[int]:
        """Where the clauses of a section start."""
        found: list[tree.Node] = []
        if isinstance(section, CLAUSED):
            found += section.clauses
        elif isinstance(section, tree.Sweep):
            found += section.base.clauses if isinstance(section.base, tree.Circuit) else ()
            found += section.axes
        return [clause.span.start for clause in found]

    def _is_broken(self, section: tree.Section, clauses: list[int]) -> bool:
        """Whether clauses stand on lines of their own: one of them does, or they are long."""
        start, stop = section.span.start, section.span.stop
        if any(self._breaks_before(offset) for offset in clauses):
            return True
        return self._has_comment(start, stop) or self._width(start, stop) > WIDTH

    def _plan_block(self, start: int, stop: int, entries: Sequence[tree.Node]) -> None:
        inline = "\n" not in self.source.text[start:stop] and not self._has_comment(start, stop)
        inline = inline and self._width(self._line_start(start), stop + 1) <= WIDTH - len(INDENT)
        starts, stops = tuple(e.span.start for e in entries), tuple(e.span.stop for e in entries)
        block = _Block(start, stop, starts, stops, inline)
        self.blocks[start] = self.closing[stop] = block

    def _plan_brackets(self, node: tree.Selected | tree.Set) -> None:
        """No blanks within `sizes[target=2%]` and behind the brace of `{a, b}`."""
        first = bisect.bisect_left(self.starts, node.span.start)
        last = bisect.bisect_left(self.starts, node.span.stop)
        inner = self.tokens[first:last]
        if isinstance(node, tree.Set):
            if inner and inner[0] == "{":
                self.tight.update((inner[1].start_pos, inner[-1].start_pos))
            return
        for before, token in itertools.pairwise(inner):
            if before.type != "COMMA":
                self.tight.add(token.start_pos)

    def _nesting(self) -> tuple[dict[int, _Block | None], dict[int, int]]:
        """For each token the innermost block around it, and in how many blocks spread over lines it lies."""
        holders: dict[int, _Block | None] = {}
        depths: dict[int, int] = {}
        open_blocks: list[_Block] = []
        for offset in self.starts:
            while open_blocks and open_blocks[-1].close < offset:
                open_blocks.pop()
            around = open_blocks[:-1] if open_blocks and open_blocks[-1].close == offset else open_blocks
            holders[offset] = around[-1] if around else None
            depths[offset] = sum(not block.inline for block in open_blocks)
            if offset in self.blocks:
                open_blocks.append(self.blocks[offset])
        return holders, depths

    def _brace_behind(self, offset: int) -> int:
        index = bisect.bisect_left(self.starts, offset)
        return next(token.start_pos for token in itertools.islice(self.tokens, index, None) if token.type == "LBRACE")

    def _breaks_before(self, offset: int) -> bool:
        """Whether a line starts at an offset."""
        return not self.source.text[self._line_start(offset) : offset].strip() or "\n" in self._gap(offset)

    def _gap(self, offset: int) -> str:
        """The blanks before an offset."""
        text, start = self.source.text, offset
        while start and text[start - 1].isspace():
            start -= 1
        return text[start:offset]

    def _line_start(self, offset: int) -> int:
        return self.source.text.rfind("\n", 0, offset) + 1

    def _has_comment(self, start: int, stop: int) -> bool:
        index = bisect.bisect_right(self.comment_starts, start)
        return index < len(self.comment_starts) and self.comment_starts[index] < stop

    def _width(self, start: int, stop: int) -> int:
        return len(" ".join(self.source.text[start:stop].split()))

    # Output

    def text(self) -> str:
        """The whole file."""
        for item in self._items():
            if item.type == "COMMENT":
                self._put_comment(item)
            else:
                self._put_token(item)
        self._level_comments()
        self._separate_sections()
        out: list[str] = []
        for line in self.lines:
            indent = INDENT * line.level
            above, beside = line.comments[:-1], line.comments[-1:]
            out += [""] if line.blank and out else []
            out += [f"{indent}{comment}" for comment in above]
            out.append(f"{indent}{'  '.join([line.text, *beside])}".rstrip())
        return "\n".join(out) + "\n" if out else ""

    def _items(self) -> Iterator[Token]:
        return iter(sorted([*self.tokens, *self.comments], key=lambda token: token.start_pos))

    def _put_token(self, token: Token) -> None:
        offset = token.start_pos
        block = self.blocks.get(offset) or self.closing.get(offset)
        if self._is_separator(token, offset):
            return
        holder = self.holders.get(offset)
        starts_entry = holder is not None and _holds(holder.starts, offset)
        closes = block is not None and offset == block.close
        if not self.lines or offset in self.sections or offset in self.clauses:
            self._new_line(token, 1 if offset in self.clauses else 0)
            self.lines[-1].starts_section = offset in self.sections
        elif (starts_entry and holder and not holder.inline) or (closes and block and not block.inline):
            self._new_line(token, self.depths[offset] - (1 if closes else 0))
            self.lines[-1].blank &= not closes and not self.lines[-2].text.endswith("{")
        elif self.lines[-1].is_comment:
            self._new_line(token, 0)
        else:
            first = starts_entry and holder is not None and holder.starts[0] == offset
            self.lines[-1].text += ENTRY_GAP if starts_entry and not first else self._space(token, offset)
        self.lines[-1].text += str(token)
        self.previous = token

    def _is_separator(self, token: Token, offset: int) -> bool:
        """`;` and `,` between entries say nothing."""
        holder = self.holders.get(offset)
        return token.type in {"SEPARATOR", "COMMA"} and holder is not None and holder.is_between(offset)

    def _new_line(self, token: Token, level: int) -> None:
        self.lines.append(_Line(level, blank=self._blank_before(token)))

    def _blank_before(self, token: Token) -> bool:
        return self._gap(token.start_pos).count("\n") > 1

    def _space(self, token: Token, offset: int) -> str:
        previous = self.previous
        if previous is None or token.type in TIGHT_BEFORE or previous.type in TIGHT_AFTER or offset in self.tight:
            return ""
        if token.type == "LPAR" and previous.type == "NAME":
            return ""
        # A minus behind an operator is a sign.
        return "" if previous.type == "MINUS" and self._is_sign(previous) else " "

    def _is_sign(self, minus: Token) -> bool:
        index = bisect.bisect_left(self.starts, minus.start_pos)
        return index == 0 or self.tokens[index - 1].type not in OPERANDS

    def _put_comment(self, comment: Token) -> None:
        text = str(comment).rstrip()
        offset = comment.start_pos
        own_line = not self.source.text[self._line_start(offset) : offset].strip()
        if not own_line:
            self.lines[-1].comments.append(text)
            return
        line = _Line(0, text, self._blank_before(comment), is_comment=True)
        if self._ends_line(comment):
            if self.lines and self.lines[-1].text.endswith("{"):
                line.blank = False
            self.lines.append(line)
        else:
            # In the middle of a statement: before its line.
            line.blank, self.lines[-1].blank = self.lines[-1].blank, False
            self.lines.insert(len(self.lines) - 1, line)

    def _ends_line(self, comment: Token) -> bool:
        """Whether the token behind a comment starts a line of the output."""
        index = bisect.bisect_right(self.starts, comment.start_pos)
        behind = itertools.islice(self.tokens, index, None)
        following = next((token for token in behind if not self._is_separator(token, token.start_pos)), None)
        if following is None or not self.lines or self.previous is None:
            return True
        start = following.start_pos
        holder = self.holders.get(start)
        entry = holder is not None and not holder.inline and _holds(holder.starts, start)
        closing = start in self.closing and not self.closing[start].inline
        return entry or closing or start in self.sections or start in self.clauses

    def _level_comments(self) -> None:
        """A comment is indented like the line behind it; before a closing brace like what the brace closes."""
        level = 0
        for line in reversed(self.lines):
            if line.is_comment:
                line.level = level
            else:
                level = line.level + (1 if line.text.startswith("}") else 0)

    def _separate_sections(self) -> None:
        """An empty line round every section that takes several lines."""
        starts = [index for index, line in enumerate(self.lines) if line.starts_section]
        stops = [*starts[1:], len(self.lines)]
        long = [sum(not line.is_comment for line in self.lines[a:b]) > 1 for a, b in zip(starts, stops, strict=False)]
        for position, start in enumerate(starts):
            index = start
            while index > 0 and self.lines[index - 1].is_comment and not self.lines[index].blank:
                index -= 1
            if position == 0 or long[position] or long[position - 1]:
                self.lines[index].blank = True


def _holds(starts: tuple[int, ...], offset: int) -> bool:
    """Whether a sorted tuple has a number."""
    index = bisect.bisect_left(starts, offset)
    return index < len(starts) and starts[index] == offset
