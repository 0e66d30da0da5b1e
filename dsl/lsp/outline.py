"""Document symbols: the sections of a file, for the outline and for jumping to one."""

from __future__ import annotations

from collections.abc import Mapping

from lsprotocol import types

from dsl import tree
from dsl.lsp.analysis import Analysis

KINDS: Mapping[str, types.SymbolKind] = {
    "model": types.SymbolKind.Class,
    "graph": types.SymbolKind.Struct,
    "task": types.SymbolKind.Interface,
    "circuit": types.SymbolKind.Object,
    "sheaf": types.SymbolKind.Object,
    "query": types.SymbolKind.Function,
    "vector": types.SymbolKind.Array,
    "let": types.SymbolKind.Constant,
    "include": types.SymbolKind.File,
}


def symbols(analysis: Analysis) -> list[types.DocumentSymbol]:
    """One symbol a section, in the order of the file."""
    return [each for each in (_symbol(analysis, s) for s in analysis.document.parsed.file.sections) if each]


def _symbol(analysis: Analysis, section: tree.Node) -> types.DocumentSymbol | None:
    place = analysis.document.place(section.span)
    if place is None:
        return None
    start, stop = place[0], place[0] + len(section.span.text.rstrip())
    head = section.span.text.partition("\n")[0].partition(" {")[0].strip()
    keyword = head.split(" ", 1)[0]
    name = getattr(section, "name", None)
    declared = name if isinstance(name, tree.Name) and not name.is_missing else None
    chosen = (declared and analysis.document.place(declared.span)) or (start, start + len(keyword))
    title, detail = (declared.text, head) if declared else (head, "")
    kind = KINDS.get(keyword, types.SymbolKind.Event)
    return types.DocumentSymbol(
        title or keyword, kind, analysis.positions.range(start, stop), analysis.positions.range(*chosen), detail or None
    )
