"""What reports say of the analyzer: figures within the page, readable in black and white, names that are only shown."""

from __future__ import annotations

import copy
import json
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsl.report import make_report
from dsl.report.content import Drawing, HeatMap, Plot, Report, Series, Tree
from dsl.report.plots import heat_map_svg, plot_svg
from dsl.report.plots_trees import tree_svg
from graphir.draw import find_renderer
from graphir.errors import UnavailableError
from tests.test_report import ANY, ATTRIBUTES, HOSTILE, TAGS, Page

UNITS = ["u0", "u1", "u2", "u3"]
MATRIX = [[0.0, 0.1, 0.9, 0.8], [0.1, 0.0, 0.7, 0.9], [0.9, 0.7, 0.0, 0.2], [0.8, 0.9, 0.2, 0.0]]
EDGES = [["u0", "u1", 1], ["u1", "u2", 3], ["u2", "u3", 1]]
ROW = {"size": 2, "statistic": "kl", "effect": 1.5, "random": 0.5, "p": 0.05, "q": 0.1}
MANIFEST: dict[str, Any] = {
    "corpora": {"s": {"samples": 64, "tokens": 10, "identity": "ab" * 32}},
    "analyses": {"m": {"metric": "cka", "samples": 64, "units": UNITS, "distances": MATRIX}},
    "blocks": {
        "b": {
            "analysis": "m", "names": UNITS, "labels": [0, 0, 1, 1], "count": 2, "p": 0.01, "edges": EDGES,
            "score": {"separation": 0.8, "silhouette": 0.7, "contrast": 4.5, "contrast_p": 0.3},
            "stability": {"agreement": 0.9375, "least": 0.5},
            "validation": {
                "lesion": {"what": "lesion kl", "values": [1, 2, 3, 4], "by_block": [1.5, 3.5], "contrast": 1, "p": 0.7}
            },
        }
    },
    "clusters": {
        "ward": {
            "method": "hierarchy", "names": UNITS, "labels": [0, 0, 1, 1], "facts": {"constant": ["u3"]},
            "tree": [[0, 1, 0.25, 2], [2, 3, 0.5, 2], [4, 5, 2.0, 4]], "edges": EDGES,
        },
        "near": {
            "method": "communities", "names": UNITS, "labels": [0, 1, 1, -1],
            "facts": {
                "modularity": 0.375, "motifs": {"030T": {"count": 5, "z": 2.5}},
                "centrality": {"u1": {"pagerank": 0.625, "betweenness": 0.5, "in_strength": 2, "out_strength": 3}},
            },
        },
    },
    "lesions": {
        "l": {
            "kind": "cluster", "rows": [{"group": "c0@u", **ROW}, {"group": "c1@u", **ROW, "effect": 0.125}],
            "statistics": {"kl": {"p": 0.03125, "ratio": 1.25}}, "accuracy": 0.96875, "skipped": ["c9@u"],
        }
    },
    "drifts": {
        "d": {
            "names": UNITS, "labels": ["early", "late"], "steps": [0.0, 1000.0], "metric": "cka",
            "blocks": [[0, 0, 1, 1], [0, 1, 1, 1]], "from_before": [[0.1, 0.2, 0.3, 0.4375]], "agreement": [0.5625],
            "from_first": [[0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4375]], "mean": [0.5, 0.6], "dropped": ["u9"],
        }
    },
    "shrinks": {
        "small": {
            "sizes": [{"kind": "all", "parameters_before": 4096, "parameters_after": 1024, "flops_before": 80,
                       "flops_after": 20}],
            "difference": 1e-6, "left": ["a0.h0"], "notes": ["a note"],
        }
    },
    "checks": [{"subject": "b", "kind": "blocks", "condition": "count >= 3", "passed": False, "values": {"count": 2}}],
}  # fmt: skip


@pytest.fixture(scope="module")
def report() -> Report:
    return make_report(MANIFEST, {})


def blocks_of(report: Report, key: str, kind: type[Any]) -> list[Any]:
    return [each for each in report.section(key).blocks if isinstance(each, kind)]


def test_each_result_has_a_section_with_its_numbers_in_every_form(report: Report) -> None:
    titles = [each.title for each in report.section("analyses").sections]
    assert titles == ["Analysis m", "Blocks b", "Cluster ward", "Cluster near", "Lesion l", "Drift d",
                      "Smaller module small"]  # fmt: skip
    page, markdown, data = Page(report.to_html()).text, report.to_markdown(), json.dumps(report.to_json())
    for number in ("0.9375", "0.375", "0.625", "0.03125", "0.4375", "0.5625"):
        assert number in page and number in markdown and number in data, number
    for text in ("96.88%", "1,024", "25%", "a note"):
        assert text in page and text in markdown, text


def test_checks_of_analyses_are_among_the_checks(report: Report) -> None:
    assert "| FAIL | `b` | `count >= 3` | count = 2 |" in report.to_markdown()
    assert "The one condition does not hold" in report.to_markdown()


def test_blocks_are_framed_in_the_heat_map(report: Report) -> None:
    (heat,) = blocks_of(report, "blocks-1", HeatMap)
    assert heat.frames == (2,)
    root = ElementTree.fromstring(heat_map_svg(heat))
    assert [each.get("class") for each in root.iter("rect")] == ["frame", "inner"] * 2


def test_a_dendrogram_has_every_leaf_and_merge_and_its_cut(report: Report) -> None:
    (tree,) = blocks_of(report, "cluster-1", Tree)
    assert tree.cut == 1.25
    svg = tree_svg(tree)
    assert svg == tree_svg(tree)
    root = ElementTree.fromstring(svg)
    assert len(list(root.iter("path"))) == 3
    assert [each.get("class") for each in root.iter("line")].count("cut") == 1
    assert set(UNITS) <= {each.text for each in root.iter("text")}


@pytest.mark.parametrize(
    "merges",
    [[[0, 1, 0.2, 2]], [[0, 0, 1, 2]] * 3, [[0, 1, 1, 2], [0, 2, 1, 2], [3, 4, 1, 2]], [[0, 9, 1, 1]] * 3, "x", None],
)
def test_what_is_no_tree_is_not_drawn(merges: Any) -> None:
    manifest = copy.deepcopy(MANIFEST)
    manifest["clusters"]["ward"]["tree"] = merges
    assert not blocks_of(make_report(manifest, {}), "cluster-1", Tree)


def test_groups_are_drawn_over_the_graph(report: Report) -> None:
    try:
        find_renderer()
    except UnavailableError:
        pytest.skip("there is no Graphviz here")
    (drawing,) = blocks_of(report, "blocks-1", Drawing)
    assert "block 1" in drawing.svg
    assert "| block 0 | block 1 | 3 |" in report.to_markdown()


def test_a_drift_is_lines_over_steps(report: Report) -> None:
    (plot,) = blocks_of(report, "drift-1", Plot)
    assert plot.scale == "number" and plot.series[1] == Series("u3", ((0.0, 0.0), (1000.0, 0.4375)))
    root = ElementTree.fromstring(plot_svg(plot))
    assert {"0", "200", "1000", "mean of all"} <= {each.text for each in root.iter("text")}
    assert len({each.get("stroke-dasharray") for each in root.iter("polyline")}) == len(plot.series)


def test_figures_have_no_color(report: Report) -> None:
    page = Page(report.to_html())
    for value in (*page.values("fill"), *page.values("stroke")):
        digits = value.removeprefix("#")
        gray = len(digits) == 6 and digits[:2] == digits[2:4] == digits[4:]
        assert value in ("none", "black", "white", "transparent") or gray, value


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_only_shown(text: str) -> None:
    def everywhere(value: Any) -> Any:
        if isinstance(value, dict):
            return {(f"{key}{text}" if key in NAMED else key): everywhere(each) for key, each in value.items()}
        if isinstance(value, list):
            return [everywhere(each) for each in value]
        return f"{value}{text}" if isinstance(value, str) else value

    report = make_report(everywhere(MANIFEST), {})
    page = Page(report.to_html())
    assert page.open == []
    assert page.tags <= TAGS
    assert dict(page.attributes).keys() <= ATTRIBUTES
    assert all(value.startswith(("#", "data:image/png;")) for value in page.values("href"))
    assert blocks_of(report, "cluster-1", Tree) and blocks_of(report, "drift-1", Plot)
    json.dumps(report.to_json(), allow_nan=False).encode("ascii")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_value_of_a_manifest_breaks_a_report(data: st.DataObject) -> None:
    manifest = copy.deepcopy(MANIFEST)
    for each in (manifest["blocks"]["b"], manifest["clusters"]["ward"]):
        each["edges"] = []  # Graphviz takes its time
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = manifest
        while True:
            key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place)))))
            if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.integers(0, 4)) == 0:
                break
            place = place[key]
        place[key] = data.draw(ANY)
    report = make_report(manifest, {})
    assert Page(report.to_html()).open == []
    json.dumps(report.to_json(), allow_nan=False)
    report.to_markdown()


NAMED = {"m", "b", "ward", "near", "l", "d", "small", "s", "u1", "030T", "kl"}
