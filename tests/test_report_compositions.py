"""What a report says of compositions, and of what their parts share."""

from __future__ import annotations

import numpy as np

from dsl.report import make_report
from dsl.report.about_compositions import overlap_blocks
from dsl.report.content import Table
from graphir.algebra_overlap import overlap
from graphir.circuit import Circuit
from tests.factories import transformer
from tests.reporting import small_circuit, small_manifest


def test_a_composition_has_what_its_parts_share_of_the_whole_each_kind_and_every_layer() -> None:
    circuit = small_circuit()
    manifest = small_manifest(circuit)
    report = make_report(manifest, {"found": circuit})
    _, measured, changes, shared, layers = report.section("composition-1").blocks
    found = manifest["compositions"]["found"]["overlap"]
    assert isinstance(measured, Table)
    assert isinstance(changes, Table)
    assert isinstance(shared, Table)
    assert isinstance(layers, Table)
    assert [row[:2] for row in measured.rows] == [("t", "a"), ("t", "b"), ("t", "found")]
    assert changes.rows == (("a", "t", "logit_diff", 3.0, 3.5, 0.5),)
    rows = {row[0]: row[1:4] for row in shared.rows}
    assert rows["edges"] == (6, 8, 0.75)
    for part in ("edges", "nodes"):
        for name, each in found[part]["by_kind"].items():
            assert rows.get(f"{part} of {name}") == (
                (each["shared"], each["union"], each["iou"]) if each["union"] else None
            )
    assert layers.headers[1:4] == ("edges shared", "edges, union", "edges, IoU")
    own = {row[0]: row[1:] for row in layers.rows}
    for name, each in found["edges"]["by_layer"].items():
        if each["union"]:
            assert own["none" if name == "-" else name][:3] == (each["shared"], each["union"], each["iou"])


def test_every_layer_of_a_deep_model_is_in_the_report() -> None:
    graph = transformer(60, 2)
    rng = np.random.default_rng(0)
    parts = [Circuit(graph, rng.random(len(graph.edges)) < 0.5, np.ones(len(graph.nodes), bool)) for _ in range(2)]
    *_, layers = overlap_blocks(overlap(*parts).to_json(), "shared")
    assert isinstance(layers, Table)
    assert [row[0] for row in layers.rows] == [*map(str, range(60)), "none"]
    assert layers.more == 0
