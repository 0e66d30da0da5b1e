"""Reports: one content, three forms; nothing in a page but the page; no text that can do more than be shown."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
import struct
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsl.report import make_report, read_report, write_report
from dsl.report.content import Code, Facts, HeatMap, Plot, Report, Section, Series, Table, cell_text, walk
from dsl.report.drawing import inline_svg
from dsl.report.markdown import code_span, escape
from dsl.report.plots import heat_map_svg, plot_svg
from dsl.report.text import one_line, visible
from graphir.circuit import Circuit
from graphir.errors import SaveFormatError, UnknownNameError
from tests.factories import transformer
from tests.golden import SPEC, check_golden
from tests.reporting import small_circuit, small_graph, small_manifest

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "</style></title></pre></table><script>x</script>",
    "javascript:alert(1)",
    "a'b\"c&d<e>]]>-->",
    "`|`<b>*x*</b>\n\n# heading\n```\n",
    "\x00\x1b[31m\u202e\ud800\ufffe",
    "[x](https://example.org) https://example.org",
)
VOID = {"meta", "br", "hr", "img", "link", "input"}
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "nav", "main", "section", "figure", "figcaption"),
    *("h1", "h2", "h3", "h4", "p", "ul", "li", "a", "table", "thead", "tbody", "tr", "th", "td", "code", "pre", "span"),
    *("div", "details", "summary", "svg", "g", "path", "polygon", "polyline", "ellipse", "circle", "rect", "line"),
    *("text", "image"),
}
ATTRIBUTES = {
    *("lang", "charset", "http-equiv", "content", "name", "id", "class", "href", "role", "aria-label", "viewbox"),
    *("width", "height", "d", "points", "cx", "cy", "r", "rx", "ry", "x", "y", "x1", "y1", "x2", "y2", "fill"),
    *("stroke", "stroke-width", "stroke-dasharray", "transform", "text-anchor", "font-family", "font-size"),
    *("preserveaspectratio", "style"),
}


class Page(HTMLParser):
    """Elements, attributes, links and text of a page; fails where an element is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.titles: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h2", "h3", "h4"):
            self.titles.append(data)
        if not self.open or self.open[-1] != "style":
            self.text += data

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


@pytest.fixture(scope="module")
def report() -> Report:
    circuit = small_circuit()
    return make_report(small_manifest(circuit), {"found": circuit})


@pytest.fixture(scope="module")
def page(report: Report) -> Page:
    return Page(report.to_html())


# --- contents


def test_markdown(report: Report) -> None:
    check_golden(SPEC / "report.md", report.to_markdown())


def test_three_forms_have_the_same_sections(report: Report, page: Page) -> None:
    titles = [each.title for each in walk(report.sections)]
    assert len(titles) > 20
    assert page.titles == titles
    assert re.findall(r"^##+ (.*)$", report.to_markdown(), re.MULTILINE) == [escape(title) for title in titles]

    def of(sections: list[dict[str, Any]]) -> list[str]:
        return [title for each in sections for title in (each["title"], *of(each.get("sections", [])))]

    assert of(report.to_json()["sections"]) == titles


def test_page_and_markdown_have_every_number_of_the_json(report: Report, page: Page) -> None:
    markdown = html.unescape(report.to_markdown().replace("\\", ""))
    for section in walk(report.sections):
        for block in section.blocks:
            pairs = block.pairs if isinstance(block, Facts) else ()
            rows = block.rows if isinstance(block, Table) else ()
            for cell in (*(value for _, value in pairs), *(value for row in rows for value in row)):
                shown = one_line(cell_text(cell))
                assert shown in page.text
                assert shown.replace("\\", "") in markdown


def test_json_is_json_with_raw_numbers(report: Report) -> None:
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (data["format"], data["version"], data["status"]) == ("graphir.report", 1, "checks failed")
    summary = data["sections"][0]["blocks"]
    table = next(block for block in summary if block["kind"] == "table")
    assert table["rows"][0][:4] == ["found", "edge_pruning", 6, 0.1]


def test_held_out_metrics_stand_between_the_empty_circuit_and_the_model(report: Report) -> None:
    table = next(b for b in report.section("circuit-1-evidence").blocks if isinstance(b, Table))
    assert table.headers == ("metric", "empty circuit", "complement", "found", "model")
    assert table.rows[1] == ("kl", 4.0, 4.0, 0.125, 0.0)


def test_only_options_of_the_method_are_called_options(report: Report) -> None:
    facts = next(b for b in report.section("circuit-1").blocks if isinstance(b, Facts))
    assert dict(facts.pairs)["options"] == "steps = 100, seeds = 0, 1"


def test_what_was_not_recognized_and_what_is_lost(page: Page) -> None:
    assert "x0" in page.text
    assert "a loop: heads are lost" in page.text


def test_failed_checks_and_missing_tests_are_said(report: Report, page: Page) -> None:
    assert "1 of 2 conditions does not hold." in page.text
    assert "the true edges are not known" in page.text
    assert "diverged" in page.text
    assert "FAIL" in report.to_markdown()


def test_every_circuit_has_a_section_of_evidence_that_says_what_was_not_tested() -> None:
    circuit = small_circuit()
    manifest = small_manifest(circuit)
    del manifest["evidence"]
    section = make_report(manifest, {"found": circuit}).section("circuit-1-evidence")
    held_out, *_, not_made = (b for b in section.blocks if isinstance(b, Table))
    assert [row[0] for row in held_out.rows] == ["accuracy", "kl", "logit_diff", "faithfulness"]
    assert {row[0]: row[1] for row in not_made.rows} == dict.fromkeys(
        ["Faithfulness over size", "Completeness", "Minimality", "Stability over seeds", "Controls"],
        "not asked for: evidence found { }",
    )


def test_a_flagged_circuit_is_flagged_at_the_top() -> None:
    circuit = small_circuit()
    assert "flagged" not in str(make_report(small_manifest(circuit), {"found": circuit})).lower()
    flagged = make_report(small_manifest(circuit, flagged=True), {"found": circuit})
    assert "found is flagged" in str(flagged.sections[0])
    assert "Flagged" in str(flagged.section("circuit-1-evidence"))


def test_results_of_other_kinds_are_shown_by_their_paths(report: Report) -> None:
    (table,) = report.section("other-1").blocks
    assert isinstance(table, Table)
    assert table.rows == (("near.unit", "a0"), ("near.accuracy.train", 0.5))


def test_long_answers_are_cut_and_counted(report: Report) -> None:
    table = report.section("query-1").blocks[1]
    assert isinstance(table, Table)
    assert (len(table.rows), table.more, table.headers) == (40, 3, ("name", "kind", "layer", "score"))
    assert "… and 3 more" in report.to_markdown()


def test_a_circuit_that_keeps_nothing_or_was_not_measured_says_so() -> None:
    circuit = small_circuit()
    manifest = small_manifest(circuit)
    manifest["circuits"]["found"] = {"method": "edge_pruning", "failed": "not a number"}
    empty = circuit.with_(edges=circuit.edges & False, metrics={})
    text = str(make_report(manifest, {"found": empty}))
    assert "keeps no edge" in text
    assert "Not measured on held-out examples" in text
    assert "Learning broke off: not a number" in text


def test_a_run_that_was_stopped_is_reported_as_far_as_it_got() -> None:
    manifest = {"status": "interrupted", "reason": "Ctrl-C", "circuits": {"found": {"interrupted": 12}}}
    text = str(make_report(manifest, {}, unread={"found": "it is cut short"}))
    assert "The run ended early: Ctrl-C" in text
    assert "found was interrupted at step 12." in text
    assert "Without its drawing: it is cut short" in text


def test_one_circuit_of_several() -> None:
    circuit = small_circuit()
    manifest = small_manifest(circuit)
    manifest["circuits"]["other"] = manifest["circuits"]["found"]
    report = make_report(manifest, {"found": circuit}, ["found"])
    assert [each.title for each in report.sections if each.title.startswith("Circuit")] == ["Circuit found"]
    with pytest.raises(UnknownNameError, match="no circuit named `foun`") as error:
        make_report(manifest, {}, ["foun"])
    assert "`found`" in str(error.value.hints)


@pytest.mark.parametrize("override", ["a.b=1; rm -rf ~", "a.name=it's", '$(x) "y" `z`', "--out=/"])
def test_the_command_to_reproduce_it_is_quoted(override: str) -> None:
    spec = {"file": "my specs/a b.circ", "overrides": [override]}
    manifest = {"spec": spec, "determinism": {"threads": 2}, "models": {"m": {"identity": "python:pkg:make"}}}
    (code,) = (b for b in make_report(manifest, {}).section("reproduce").blocks if isinstance(b, Code))
    expected = ["circ", "run", "my specs/a b.circ", "--threads", "2", "--set", override, "--allow-code"]
    assert shlex.split(code.text) == expected


def test_versions_are_pinned_as_an_index_has_them(report: Report) -> None:
    (code,) = (b for b in report.section("reproduce").blocks if isinstance(b, Code))
    assert code.text.splitlines()[0] == "pip install graphir-circ==1.2.3 torch==2.9.0 transformers==5.1.0"


# --- the page


def test_a_page_is_balanced_and_its_links_lead_somewhere(page: Page) -> None:
    assert page.open == []
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    links = [value for value in page.values("href") if not value.startswith("data:image/png;base64,")]
    assert links
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_a_page_needs_nothing_from_elsewhere(report: Report, page: Page) -> None:
    text = report.to_html()
    assert "script" not in page.tags
    assert not {"src", "srcset", "xlink:href", "action", "data", "poster", "background"} & dict(page.attributes).keys()
    assert not re.search(r"https?:|//\w|@import|url\(", text)
    assert "default-src 'none'" in page.values("content")[0]


def test_pages_are_small(report: Report) -> None:
    assert len(report.to_html()) < 60_000
    large = small_circuit(transformer(12, 12), 5000)
    found = make_report(small_manifest(large), {"found": large}).to_html()
    assert "summed up" in found
    assert len(found) < 200_000


def test_the_specification_is_shown_in_the_colors_of_its_words(report: Report, page: Page) -> None:
    assert '<span class="c1"># A comment.</span>' in report.to_html()
    assert "circuit found = discover g for t" in page.text


def test_the_drawing_is_part_of_the_page(page: Page) -> None:
    assert "Circuit found: 6 of" in " ".join(page.values("aria-label"))
    assert "ellipse" in page.tags or "path" in page.tags
    assert "embed -> a0.h0.q" in page.text  # shown under the pointer


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_only_shown(text: str) -> None:
    def everywhere(value: Any) -> Any:
        if isinstance(value, dict):
            return {(f"{key} {text}" if key in NAMED else key): everywhere(each) for key, each in value.items()}
        if isinstance(value, list):
            return [everywhere(each) for each in value]
        return f"{value}{text}" if isinstance(value, str) else value

    graph = small_graph()
    nodes = tuple(replace(node, name=f"{node.name}{text}", note=text) for node in graph.nodes)
    ports = tuple(replace(port, name=f"{port.name}{text}") for port in graph.ports)
    circuit = small_circuit(graph).with_(graph=graph.with_(nodes=nodes, ports=ports))
    manifest = everywhere(small_manifest(small_circuit(graph)))
    name = next(iter(manifest["circuits"]))
    report = make_report(manifest, {name: circuit})
    page = Page(report.to_html())
    assert page.open == []
    assert page.tags <= TAGS
    assert dict(page.attributes).keys() <= ATTRIBUTES
    assert all(value.startswith(("#", "data:image/png;")) for value in page.values("href"))
    assert one_line(text) in " ".join(page.text.split())
    markdown = re.sub(r"^(`{3,}).*?^\1$", "", report.to_markdown(), flags=re.MULTILINE | re.DOTALL)
    outside = re.sub(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", "", markdown.replace("\\`", ""))
    assert "<" not in outside
    assert len(re.findall("^## ", markdown, re.MULTILINE)) == len(report.sections)
    json.dumps(report.to_json(), allow_nan=False).encode("ascii")
    report.to_html().encode("utf-8")


NAMED = {"found", "g", "m", "t", "heads", "near", "torch", "kl(model, circuit)", "x0"}
ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.sampled_from(HOSTILE),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "points", "<b>"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_value_of_a_manifest_breaks_a_report(data: st.DataObject) -> None:
    manifest = json.loads(json.dumps(MANIFEST))
    for _ in range(data.draw(st.integers(1, 4))):
        place: Any = manifest
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
                break
            place = place[key]
        place[key] = data.draw(ANY)
        if not manifest:
            break
    report = make_report(manifest, {})
    page = Page(report.to_html())
    assert page.open == []
    assert page.tags <= TAGS
    json.dumps(report.to_json(), allow_nan=False)
    report.to_markdown()


MANIFEST = small_manifest(small_circuit())


# --- pieces


def test_characters_that_are_not_seen_are_written_out() -> None:
    assert visible("a\u202eb\x00\ud800\r\nc\td") == "a\\u202eb\\u0000\\ud800\nc\td"
    assert visible("größer → ≥ 漢字 🙂") == "größer → ≥ 漢字 🙂"


def test_markdown_escapes() -> None:
    assert escape("a_b *c* <d> [e](f) |g| `h`") == r"a_b \*c\* &lt;d&gt; \[e\](f) \|g\| \`h\`"
    assert escape("_a_") == r"\_a\_"
    assert code_span("a|b") == "`a|b`"
    assert code_span("a|b", in_table=True) == r"`a\|b`"
    assert code_span("a`b") == "`` a`b ``"


def test_a_code_block_cannot_be_closed_from_within() -> None:
    block = Code("x\n````\n# y\n", "circ")
    text = Report("r", "finished", (Section("s", "S", (block,)),)).to_markdown()
    assert "`````circ\nx\n````\n# y\n`````" in text


def test_a_drawing_keeps_shapes_and_tips_and_nothing_else() -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 10 20">'
        '<script>x</script><style>y</style><foreignObject><p>z</p></foreignObject><image href="http://e.org/i"/>'
        '<g onclick="alert(1)"><a xlink:href="javascript:alert(1)" xlink:title="a &lt;b&gt; c">'
        '<path d="M0,0" fill="url(http://e.org)" stroke="#123456" style="x"/><text x="1">t &amp; u</text></a></g></svg>'
    )
    assert inline_svg(svg, 'l"') == (
        '<svg class="drawing" role="img" aria-label="l&quot;" viewBox="0 0 10 20" width="10" height="20">'
        "<g><g><title>a &lt;b&gt; c</title>"
        '<path d="M0,0" stroke="#123456"></path><text x="1">t &amp; u</text></g></g></svg>'
    )


@pytest.mark.parametrize("svg", ["", "<svg", "no svg", '<!DOCTYPE s [<!ENTITY a "b">]><svg>&a;</svg>'])
def test_what_is_no_drawing_is_left_out(svg: str) -> None:
    assert inline_svg(svg, "x") == ""


def test_plots_are_told_apart_without_color_and_are_the_same_each_time() -> None:
    lines = tuple(Series(name, ((0.001, 0.0), (1.0, 1.0))) for name in "abc")
    plot = Plot("p", "x", "y", lines, (("model", 1.0),))
    svg = plot_svg(plot)
    assert svg == plot_svg(plot)
    root = ElementTree.fromstring(svg)
    dashes = {each.get("stroke-dasharray") for each in root.iter("polyline")}
    assert len(dashes) == 3
    ticks = [each.text for each in root.iter("text")]
    assert {"0.1%", "1%", "10%", "100%", "model", "a"} <= set(ticks)


@pytest.mark.parametrize(
    "points", [(), ((0.5, 0.5),), ((0.5, 2.0), (0.5, 2.0)), ((1e-9, -1e9), (1.0, 1e9)), ((0.0, 1.0),)]
)
def test_plots_of_few_or_strange_points(points: tuple[tuple[float, float], ...]) -> None:
    ElementTree.fromstring(plot_svg(Plot("p", "x", "y", (Series("s", points),))))


def test_a_heat_map_has_a_pixel_for_each_entry() -> None:
    values = ((0.0, 0.5), (1.0, 0.25))
    svg = heat_map_svg(HeatMap("h", ("a", "b"), values, "cka"))
    image = next(each for each in ElementTree.fromstring(svg).iter("image")).get("href")
    assert image is not None
    png = base64.b64decode(image.partition(",")[2])
    size = struct.unpack(">II", png[16:24])
    start = png.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", png[start - 8 : start - 4])
    assert size == (2, 2)
    assert zlib.decompress(png[start : start + length]) == bytes([0, 0, 128, 0, 255, 64])


def test_matrices_are_drawn_or_said_to_be_too_large() -> None:
    def of(count: int) -> Report:
        matrix = {"units": [str(i) for i in range(count)], "distances": [[0.0] * count] * count}
        return make_report({"analyses": {"near": matrix}}, {})

    assert any(isinstance(block, HeatMap) for block in of(2).section("analysis-1").blocks)
    assert "| `1` | 0 | 0 |" in str(of(2))
    assert "201 rows is not drawn" in str(of(201))


def test_a_notebook_shows_the_page_in_a_frame_that_runs_nothing(report: Report) -> None:
    shown = Page(report._repr_html_())
    assert shown.tags == {"iframe"}
    assert dict(shown.attributes)["sandbox"] == ""
    assert dict(shown.attributes)["srcdoc"] == report.to_html()
    assert set(report._repr_mimebundle_()) == {"text/html", "text/markdown", "text/plain"}
    assert set(report._repr_mimebundle_(include={"text/plain"})) == {"text/plain"}
    assert repr(report) == "Report('Report of toy.circ', checks failed, 14 sections)"


# --- files


def test_files_in_each_form(report: Report, tmp_path: Path) -> None:
    for form, text in (("html", report.to_html()), ("md", report.to_markdown())):
        assert write_report(report, tmp_path / f"r.{form}").read_text(encoding="utf-8") == text
    assert json.loads(write_report(report, tmp_path / "r.json").read_text(encoding="utf-8")) == report.to_json()
    with pytest.raises(UnknownNameError, match="no report format named `doc`"):
        write_report(report, tmp_path / "r.doc")


def test_a_run_folder_is_read_as_far_as_it_can_be(tmp_path: Path) -> None:
    circuit = small_circuit()
    manifest = small_manifest(circuit) | {"format": "graphir.run", "version": 1, "files": []}
    manifest["circuits"]["../up"] = {"method": "x"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert "Without its drawing" in str(read_report(tmp_path))
    circuit.save(tmp_path / "circuits" / "found")
    text = str(read_report(tmp_path, ["found"]))
    assert "Without its drawing" not in text
    assert "| `embed -> a0.h0.q` | 1 |" in text
    assert "is no name of a saved circuit" in str(read_report(tmp_path, ["../up"]))
    with pytest.raises(SaveFormatError, match="neither a run"):
        read_report(tmp_path / "circuits")


def test_circuits_that_are_there_need_not_be_in_the_manifest() -> None:
    circuit: Circuit = small_circuit()
    assert "Circuit found" not in str(make_report({"circuits": []}, {"found": circuit}))
