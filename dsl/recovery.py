"""Reading one section: the LALR parser, and recovery from tokens that do not fit.

Recovery tries, at each token that does not fit, to read it as the keyword it resembles, to put in what is missing, to
leave the token out, or to take it for what was wanted; whichever lets the following tokens fit. After three failures
the rest of the section is skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dsl import tree
from dsl.build import Builder
from dsl.describe import describe_expected, describe_token, section_form
from dsl.lalr import Parser, UnexpectedTokenError
from dsl.lexer import Token
from dsl.suggest import closest_word, translate_foreign
from dsl.tokens import CLOSING, span_of
from graphir.diagnostics import Diagnostic, Edit, Label, Source

MAX_FAILURES = 3
MAX_OPERATORS = 200
SECTIONS = {
    "analyze", "blocks", "check", "circuit", "cluster", "corpus", "drift", "evidence", "export", "graph", "import",
    "include", "lesion", "let", "measure", "model", "query", "report", "sheaf", "shrink", "sweep", "task", "vector",
}  # fmt: skip
NOUNS = {
    "check",
    "circuit",
    "cluster",
    "corpus",
    "drift",
    "graph",
    "lesion",
    "model",
    "query",
    "report",
    "sheaf",
    "sweep",
    "task",
    "vector",
}
SIGNS = {"&": "and", "|": "or"}
OPERATORS = {"PLUS", "MINUS", "TIMES", "SLASH", "POWER", "NOT", "AND", "OR", "COMPARE", "EQUAL"}
INSERTED = {"NAME": "", "NUMBER": "", "STRING": ""}
"""What recovery may invent, as empty tokens."""

PREFERENCE = ("RBRACE", "RPAR", "RSQB", "COLON", "EQUAL", "LBRACE", "LPAR", "COMMA", "NAME", "NUMBER", "STRING")


def unknown_section(source: Source, token: Token) -> Diagnostic:
    """The mistake of a token that starts no section."""
    span = span_of(source, token)
    known = ", ".join(sorted(SECTIONS))
    return Diagnostic(
        "C201",
        f"expected a section, found {describe_token(token)}",
        (Label(span, "no section starts like this"),),
        (f"sections: {known}",),
    )


@dataclass
class SectionReader:
    """Reads the tokens of one section."""

    source: Source
    tokens: list[Token]
    mistakes: list[Diagnostic]
    opened: list[Token] = field(default_factory=list)

    def read(self) -> tree.Section | None:
        """The section, or None when too little of it could be read."""
        if not self._mend_keyword() or self._is_endless():
            return None
        builder = Builder(self.source)
        parser = Parser(builder)
        failures, index = 0, 0
        pending = [*self.tokens, self._end()]
        while True:
            token = _fitting(parser, pending[index])
            try:
                result = parser.feed(token)
            except UnexpectedTokenError:
                failures += 1
                if failures > MAX_FAILURES or not self._recover(parser, pending, index):
                    return None
                continue
            self._follow_braces(token)
            index += 1
            if token.type == "$END":
                section: tree.Section = result
                self.mistakes += builder.mistakes
                return section

    def _end(self) -> Token:
        return self.tokens[-1].update("$END", "") if self.tokens else Token("$END", "")

    def _mend_keyword(self) -> bool:
        """Report a word in place of a section's keyword; take it for the keyword it resembles."""
        first = self.tokens[0]
        if first.type != "NAME":
            return True
        close = closest_word(first, SECTIONS)
        diagnostic = unknown_section(self.source, first)
        if close:
            fix = Edit(span_of(self.source, first), close)
            labels = (Label(span_of(self.source, first), "not a section"),)
            diagnostic = Diagnostic(
                "C201", f"unknown section `{first}`", labels, diagnostic.notes, f"did you mean `{close}`?", fix
            )
            self.tokens[0] = first.update(type=close.upper())
        self.mistakes.append(diagnostic)
        return bool(close)

    def _is_endless(self) -> bool:
        operators = [token for token in self.tokens if token.type in OPERATORS]
        if len(operators) <= MAX_OPERATORS:
            return False
        label = Label(span_of(self.source, operators[MAX_OPERATORS]), f"operator number {MAX_OPERATORS + 1}")
        self.mistakes.append(Diagnostic("C104", f"a section has more than {MAX_OPERATORS} operators", (label,)))
        return True

    def _follow_braces(self, token: Token) -> None:
        if token in CLOSING:
            self.opened.append(token)
        elif token in CLOSING.values() and self.opened:
            self.opened.pop()

    # Recovery. Each way returns the tokens that replace the one that does not fit, or None.

    def _recover(self, parser: Parser, pending: list[Token], index: int) -> bool:
        """Report the token at `index` and change `pending` so that it fits; False when nothing helps."""
        accepted = _accepted(parser)
        token = pending[index]
        for far in (True, False):
            for way in (
                self._as_sign,
                self._as_keyword,
                self._as_field,
                self._with_one,
                self._left_out,
                self._taken_for,
                self._with_two,
            ):
                outcome = way(parser, accepted, pending, index, far)
                if outcome is not None:
                    replacement, diagnostic = outcome
                    if not _is_invented(token):
                        self.mistakes.append(diagnostic)
                    pending[index : index + 1] = replacement
                    return True
        self.mistakes.append(self._unexpected(token, accepted))
        return False

    def _as_sign(
        self, parser: Parser, accepted: list[str], pending: list[Token], index: int, far: bool
    ) -> tuple[list[Token], Diagnostic] | None:
        """The word that a sign stands for in other languages."""
        token = pending[index]
        word = SIGNS.get(str(token))
        if word is None or word.upper() not in accepted:
            return None
        doubled = pending[index + 1] if index + 1 < len(pending) and pending[index + 1] == token else None
        span = span_of(self.source, token)
        if doubled is not None:
            span = span.to(span_of(self.source, doubled))
            del pending[index + 1]
        label, help = Label(span, "combines circuits, not conditions"), f"write `{word}`"
        diagnostic = Diagnostic(
            "C106", f"`{span.text}` is no word of a condition", (label,), (), help, Edit(span, word)
        )
        return [token.update(word.upper(), word)], diagnostic

    def _as_keyword(
        self, parser: Parser, accepted: list[str], pending: list[Token], index: int, far: bool
    ) -> tuple[list[Token], Diagnostic] | None:
        """The keyword that a word resembles."""
        token = pending[index]
        keywords = {word.lower() for word in accepted if word.isalpha()} - {"name", "number", "string"}
        close = closest_word(token, keywords) if token.isidentifier() else None
        if close is None or close == token:
            return None
        replacement = token.update(type=close.upper())
        if not _fits(parser, [replacement, *pending[index + 1 : index + 2]]):
            return None
        span = span_of(self.source, token)
        label = Label(span, f"expected {describe_expected(accepted)}")
        message = f"unexpected {describe_token(token)}"
        return [replacement], Diagnostic("C101", message, (label,), (), f"did you mean `{close}`?", Edit(span, close))

    def _as_field(
        self, parser: Parser, accepted: list[str], pending: list[Token], index: int, far: bool
    ) -> tuple[list[Token], Diagnostic] | None:
        """A field whose colon is missing."""
        token = pending[index]
        if "FIELD" not in accepted or not token.isidentifier():
            return None
        replacement = [token.update(type="FIELD"), self._invent("COLON", index + 1, pending)]
        if not _fits(parser, [*replacement, *pending[index + 1 : index + 2]]):
            return None
        span = span_of(self.source, token)
        label = Label(span, "no `:` behind this field")
        message = f"expected `:` behind `{token}`"
        return replacement, Diagnostic(
            "C101", message, (label,), (), "a field is written `name: value`", Edit(span.after(), ":")
        )

    def _with_one(
        self, parser: Parser, accepted: list[str], pending: list[Token], index: int, far: bool
    ) -> tuple[list[Token], Diagnostic] | None:
        """The token behind one that is missing."""
        return self._with_missing([(kind,) for kind in accepted], parser, accepted, pending, index, far)

    def _with_two(
        self, parser: Parser, accepted: list[str], pending: list[Token], index: int, far: bool
    ) -> tuple[list[Token], Diagnostic] | None:
        """The token behind two that are missing."""
        pairs = []
        for kind in accepted:
            trial = parser.trial()
            if _feed(trial, self._invent(kind, index, pending)):
                pairs += [(kind, other) for other in _accepted(trial)]
        return self._with_missing(pairs, parser, accepted, pending, index, far)

    def _with_missing(
        self,
        missing: Sequence[tuple[str, ...]],
        parser: Parser,
        accepted: list[str],
        pending: list[Token],
        index: int,
        far: bool,
    ) -> tuple[list[Token], Diagnostic] | None:
        ahead = pending[index : index + (3 if far else 1)]
        for kinds in missing:
            inserted = [self._invent(kind, index, pending) for kind in kinds]
            if _fits(parser, [*inserted, *ahead]):
                return [*inserted, pending[index]], self._missing(kinds, accepted, pending, index)
        return None

    def _left_out(
        self, parser: Parser, accepted: list[str], pending: list[Token], index: int, far: bool
    ) -> tuple[list[Token], Diagnostic] | None:
        """Nothing."""
        token = pending[index]
        if token.type == "$END" or not _fits(parser, pending[index + 1 : index + (3 if far else 2)]):
            return None
        diagnostic = self._unexpected(token, accepted)
        if token.type == "COLON" and pending[index - 1].type.lower() not in SECTIONS:
            label = Label(span_of(self.source, token), "no `:` here")
            message = f"`{pending[index - 1]}` takes no `:`"
            diagnostic = Diagnostic(
                "C101", message, (label,), (), "leave it out", Edit(span_of(self.source, token), "")
            )
        return [], diagnostic

    def _taken_for(
        self, parser: Parser, accepted: list[str], pending: list[Token], index: int, far: bool
    ) -> tuple[list[Token], Diagnostic] | None:
        """A token of a kind that fits, in its place."""
        token = pending[index]
        if token.type == "$END":
            return None
        for kind in accepted:
            replacement = self._invent(kind, index, pending)
            if _fits(parser, [replacement, *pending[index + 1 : index + (3 if far else 2)]]):
                diagnostic = self._unexpected(token, accepted)
                return [replacement], self._with_fix(diagnostic, token, kind, accepted)
        return None

    def _with_fix(self, diagnostic: Diagnostic, token: Token, kind: str, accepted: list[str]) -> Diagnostic:
        """The diagnostic of a token of the wrong kind, with what to write instead where that is plain."""
        span = span_of(self.source, token)
        if kind == "STRING" and token.type in {"NAME", "PATH"}:
            return replace(diagnostic, help="texts are quoted", fix=Edit(span, f'"{token}"'))
        if kind == "NAME" and token.type == "STRING" and token[1:-1].isidentifier():
            return replace(diagnostic, help="names are not quoted", fix=Edit(span, token[1:-1]))
        ours = translate_foreign(token) if token.type == "NUMBER" and "PATH" in accepted else None
        if ours:
            return replace(diagnostic, help=f"the head is written `{ours[0]}`", fix=Edit(span, ours[0]))
        return diagnostic

    def _invent(self, kind: str, index: int, pending: list[Token]) -> Token:
        """An empty token just behind the one before `index`."""
        place = pending[index - 1].end_pos if index else 0
        return Token(kind, INSERTED.get(kind, kind.lower()), place, place)

    # Messages

    def _unexpected(self, token: Token, accepted: list[str]) -> Diagnostic:
        expected = describe_expected(accepted)
        label = Label(span_of(self.source, token), f"expected {expected}")
        return Diagnostic("C101", f"expected {expected}, found {describe_token(token)}", (label,), self._form())

    def _missing(self, kinds: tuple[str, ...], accepted: list[str], pending: list[Token], index: int) -> Diagnostic:
        token, before = pending[index], pending[max(index - 1, 0)]
        closing = kinds[0] in {"RBRACE", "RPAR", "RSQB"}
        # A single way to go on is named; otherwise everything that could stand here.
        expected = describe_expected([kinds[0]] if closing else accepted)
        message = f"expected {expected}, found {describe_token(token)}"
        where = span_of(self.source, before).after()
        if token.type == "$END" or (token.line) > (before.line):
            primary = Label(where, f"expected {expected}")
        else:
            primary = Label(span_of(self.source, token), f"expected {expected}")
        labels = [primary]
        if closing and self.opened:
            labels.append(Label(span_of(self.source, self.opened[-1]), "opened here", primary=False))
        return Diagnostic("C101", message, tuple(labels), () if closing else self._form())

    def _form(self) -> tuple[str, ...]:
        keyword = self.tokens[0].type.lower()
        form = section_form(keyword)
        article = "a " if keyword in NOUNS else ""
        return (f"{article}{keyword} is written `{form}`",) if form else ()


def _preference(kind: str) -> tuple[int, str]:
    return (PREFERENCE.index(kind) if kind in PREFERENCE else len(PREFERENCE), kind)


def _is_invented(token: Token) -> bool:
    return token.type != "$END" and token.start_pos == token.end_pos


def _fitting(parser: Parser, token: Token) -> Token:
    """The token, read as a name or as its keyword where only that fits."""
    if parser.accepts(token.type) or not token.isidentifier():
        return token
    for kind in (token.upper(), "NAME"):
        if parser.accepts(kind):
            return token.update(type=kind)
    return token


def _accepted(parser: Parser) -> list[str]:
    """The kinds of token that can be shifted, those that recovery likes best first."""
    return sorted((kind for kind in parser.choices() if parser.accepts(kind)), key=_preference)


def _feed(trial: Parser, token: Token) -> bool:
    try:
        trial.feed(_fitting(trial, token))
    except UnexpectedTokenError:
        return False
    return True


def _fits(parser: Parser, tokens: Sequence[Token]) -> bool:
    """Whether these tokens could follow."""
    trial = parser.trial()
    return all(_feed(trial, token) for token in tokens)
