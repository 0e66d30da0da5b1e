"""A report as one page: HTML with its styles, SVG within it, and nothing else. A policy in its head forbids scripts and
everything from elsewhere, should an escape ever be forgotten."""

from __future__ import annotations

from functools import cache
from html import escape
from pathlib import Path

from dsl.report.content import (
    Block,
    Cell,
    Code,
    Dots,
    Drawing,
    Facts,
    HeatMap,
    Name,
    Plot,
    Remark,
    Report,
    Section,
    Table,
    Tree,
    cell_text,
    is_number,
)
from dsl.report.drawing import inline_svg
from dsl.report.plots import dots_svg, heat_map_svg, plot_svg
from dsl.report.plots_trees import tree_svg
from dsl.report.text import one_line, visible

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
GOOD = ("finished",)


def render_page(report: Report) -> str:
    """The whole page."""
    title, status = _inline(report.title), _inline(report.status)
    tone = "good" if report.status in GOOD else "bad"
    links = "".join(f'<li><a href="#{_key(each)}">{_inline(each.title)}</a></li>' for each in report.sections)
    body = "\n".join(_section(each, 2) for each in report.sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>\n{_styles()}</style>\n</head>\n<body>\n"
        f'<header><h1>{title}</h1><p class="{tone}">{status}</p></header>\n<nav><ul>{links}</ul></nav>\n'
        f"<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def render_frame(report: Report) -> str:
    """The page in a frame of its own, for notebooks: its styles stay with it, and nothing in it can run."""
    page = escape(render_page(report), quote=True)
    return (
        f'<iframe sandbox title="report" style="width:100%;height:40em;border:1px solid #ccc" srcdoc="{page}"></iframe>'
    )


@cache
def _styles() -> str:
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def _section(section: Section, level: int) -> str:
    parts = [_block(each) for each in section.blocks] + [_section(each, level + 1) for each in section.sections]
    inner = "\n".join(part for part in parts if part)
    head = f"<h{level}>{_inline(section.title)}</h{level}>"
    return f'<section id="{_key(section)}">\n{head}\n{inner}\n</section>'


def _block(block: Block) -> str:
    match block:
        case Remark():
            return f'<p class="{escape(block.tone, quote=True)}">{_inline(block.text)}</p>'
        case Facts():
            rows = "".join(f"<tr><th>{_inline(name)}</th>{_cell(value, left=True)}</tr>" for name, value in block.pairs)
            return f'<table class="facts"><tbody>{rows}</tbody></table>'
        case Table():
            return _table(block)
        case Code():
            return _fold(block.caption, f"<pre>{_code(block)}</pre>", folded=block.folded)
        case Plot():
            return _figure(plot_svg(block), block.title)
        case Dots():
            return _figure(dots_svg(block), block.title)
        case HeatMap():
            return _figure(heat_map_svg(block), block.title)
        case Tree():
            return _figure(tree_svg(block), block.title)
        case Drawing():
            drawn = inline_svg(block.svg, one_line(block.title))
            return _figure(drawn, block.title) if drawn else ""


def _table(block: Table) -> str:
    heads = range(len(block.headers))
    right = [bool(block.rows) and all(row[i] is None or is_number(row[i]) for row in block.rows) for i in heads]
    titles = zip(block.headers, right, strict=True)
    head = "".join(f"<th{' class=n' if n else ''}>{_inline(name)}</th>" for name, n in titles)
    body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in block.rows)
    more = f"<p>… and {block.more:,} more</p>" if block.more else ""
    found = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"
    return _fold(block.caption, f'<div class="wide">{found}</div>', folded=block.folded)


def _fold(caption: str, inner: str, *, folded: bool) -> str:
    if folded:
        return f"<details><summary>{_inline(caption)}</summary>{inner}</details>"
    return f'<p class="caption">{_inline(caption)}</p>{inner}' if caption else inner


def _cell(value: Cell, *, left: bool = False) -> str:
    text = _inline(cell_text(value))
    shown = f"<code>{text}</code>" if isinstance(value, Name) and text else text
    kind = " class=n" if not left and (value is None or is_number(value)) else ""
    return f"<td{kind}>{shown}</td>"


def _figure(svg: str, title: str) -> str:
    return f"<figure>{svg}<figcaption>{_inline(title)}</figcaption></figure>"


def _code(block: Code) -> str:
    text = visible(block.text)
    return _highlighted(text) if block.language == "circ" else escape(text)


def _highlighted(text: str) -> str:
    """A specification in the colors of its kinds of word; as it is where its language is not ours."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter

    from dsl.editors.pygments_lexer import CircLexer
    from graphir.errors import GraphirError

    try:
        found: str = highlight(text, CircLexer(ensurenl=False, stripnl=False), HtmlFormatter(nowrap=True))
    except GraphirError:
        return escape(text)
    return found


def _inline(text: str) -> str:
    return escape(one_line(text), quote=True)


def _key(section: Section) -> str:
    return escape(section.key, quote=True)
