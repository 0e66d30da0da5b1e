"""Constants, subtasks, sweeps and compositions as a run sees them; goldens are in `spec/ok` and `spec/bad`."""

from __future__ import annotations

import pytest

from dsl.reading import check_source
from dsl.spec import CircuitSpec, CompositionSpec, Spec, TaskSpec
from dsl.translate import holds, keeps, quantities
from graphir.diagnostics import Source
from passes.examples import Example
from tests.golden import SPEC

START = 'circ 1\nmodel m = builtin "induction"\ngraph g = trace m\ntask t { data builtin "ioi" }\n'


def spec(text: str, *overrides: str) -> Spec:
    found = check_source(Source("x.circ", START + text), overrides, None, {})
    assert found.spec is not None, [str(each) for each in found.diagnostics]
    return found.spec


def stored(name: str) -> Spec:
    path = SPEC / "ok" / f"{name}.circ"
    found = check_source(Source(path.name, path.read_text(encoding="utf-8")), facts={}).spec
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("value", "density"),
    [("3%", 0.03), ("6% / 2", 0.03), ("3 * 1%", 0.03), ("base - 1%", 0.03), ("-(-3%)", 0.03), ("10% ^ 2", 0.01)],
)
def test_a_constant_is_its_value(value: str, density: float) -> None:
    found = spec(
        f"let base = 4%\nlet size = {value}\n"
        "circuit c = discover g for t with eap top size\ncircuit d = discover g for t with eap top base\n"
    )
    assert found.circuit("c").density == pytest.approx(density)


def test_a_constant_is_set_from_the_command_line() -> None:
    text = "let size = 3%\ncircuit c = discover g for t with eap top size\n"
    assert spec(text).circuit("c").density == 0.03
    assert spec(text, "size=5%").circuit("c").density == 0.05


def test_edge_pruning_may_aim_above_a_sparsity_of_one() -> None:
    text = "circuit c = discover g for t with edge_pruning { target: TARGET }\n"
    assert spec(text.replace("TARGET", "105%")).circuit("c").method.options.target == pytest.approx(1.05)
    found = check_source(Source("x.circ", START + text.replace("TARGET", "130%")), (), None, {})
    assert [each.code for each in found.diagnostics] == ["C303"]


def test_an_axis_hides_a_constant_of_its_name() -> None:
    circuit = "circuit c = discover g for t with eap top size\n"
    sweep = "sweep s = discover g for t with eap top size over size in 1%, 2%\n"
    found = spec(f"let size = 3%\n{circuit}{sweep}")
    assert [each.density for each in found.sweeps[0].members] == [0.01, 0.02]


def test_members_are_in_the_order_of_the_product_and_among_the_circuits() -> None:
    found = spec("sweep s = discover g for t with eap { batch_size: n } top size over size in 1%, 2% over n in 1..3\n")
    (sweep,) = found.sweeps
    assert [(each.name, each.density, each.method.options.batch_size) for each in sweep.members] == [
        ("s.0", 0.01, 1), ("s.1", 0.01, 2), ("s.2", 0.01, 3), ("s.3", 0.02, 1), ("s.4", 0.02, 2), ("s.5", 0.02, 3),
    ]  # fmt: skip
    assert found.circuits == sweep.members
    assert sweep.members[4].label == "s[size=2%, n=2]"
    assert sweep.select({"n": "2"}) == (sweep.members[1], sweep.members[4])


def test_a_sweep_of_a_declared_circuit_changes_one_thing_at_a_time() -> None:
    found = spec(
        'task u { data builtin "ioi" { n: 80 } }\n'
        "circuit c = discover g for t with edge_pruning { steps: 10 } subject to density(edges) <= 3%\n"
        "sweep s = c over task in t, u over density in 1%, 2% over seed in 4..5\n"
    )
    members = found.sweeps[0].members
    assert len(members) == 8
    assert {each.method.options.steps for each in members} == {10}
    assert (members[-1].task.name, members[-1].density, members[-1].method.options.seeds) == ("u", 0.02, (5,))
    assert found.circuit("c").density == 0.03


def test_a_check_of_a_sweep_is_one_for_each_chosen_member() -> None:
    text = "sweep s = discover g for t with eap top size over size in 1%, 2%, 3%\n"
    assert [each.circuit.name for each in spec(text + "check s { kl <= 1 }\n").checks] == ["s.0", "s.1", "s.2"]
    assert [each.circuit.name for each in spec(text + "check s[size=2.0%] { kl <= 1 }\n").checks] == ["s.1"]
    assert [each.circuit.name for each in spec(text + "check s.2 { kl <= 1 }\n").checks] == ["s.2"]


def test_exports_of_a_sweep_fill_in_the_pattern() -> None:
    text = (
        'sweep s = discover g for t with eap top size over size in 1%, 2%\nexport s to "{size}.svg", "all/{index}/"\n'
    )
    paths = [target.path for export in spec(text).exports for target in export.targets]
    assert paths == ["1%.svg", "all/0/", "2%.svg", "all/1/"]


def test_compositions_come_in_the_order_they_need_each_other() -> None:
    found = spec(
        "circuit late = early | a\ncircuit early = a & b\n"
        "circuit a = discover g for t with eap top 3%\ncircuit b = discover g for t with eap_ig top 3%\n"
    )
    late = found.any_circuit("late")
    assert isinstance(late, CompositionSpec)
    assert str(late.formula) == "(early | a)"
    assert isinstance(late.operands[0], CompositionSpec)
    assert (late.graph.name, late.task.name, late.ablation, late.mixed) == ("g", "t", "interchange", False)


@pytest.mark.parametrize(
    ("formula", "shown"),
    [("a & b | c", "((a & b) | c)"), ("a | b & c", "(a | (b & c))"), ("a - b - c", "((a - b) - c)"),
     ("~a & b", "(~a & b)"), ("a - (b + c)", "(a - (b + c))"), ("~~a", "~~a")],
)  # fmt: skip
def test_how_formulas_are_read(formula: str, shown: str) -> None:
    circuits = "".join(f"circuit {name} = discover g for t with eap top 3%\n" for name in "abc")
    assert str(spec(f"{circuits}circuit x = {formula}\n").compositions[0].formula) == shown


def test_subtasks_are_tasks_that_inherit() -> None:
    tasks: dict[str, TaskSpec] = {each.name: each for each in stored("subtasks_and_compositions").tasks}
    plural = tasks["agreement.plural"]
    assert (plural.parent, plural.metric, plural.data) == ("agreement", "kl", tasks["agreement"].data)
    assert tasks["agreement.singular"].metric == "logit_diff"


def test_a_subtask_keeps_the_examples_that_meet_its_condition() -> None:
    singular, plural = (each for each in stored("subtasks_and_compositions").tasks if each.parent)
    example = Example("The keys", None, " are", " is", "3")
    assert singular.where is not None
    assert plural.where is not None
    assert not keeps(singular.where, example)
    assert keeps(plural.where, example)
    assert keeps(singular.where, Example("The key", None, " is", " are", "3"))
    assert keeps(singular.where, Example("The key", None, " was", " were", "2"))


def test_gates_name_their_quantities_in_full() -> None:
    found = spec(
        "circuit c = discover g for t with edge_pruning subject to density(edges) <= 3%\n"
        "check c { stability iou >= 0.5 over 3 seeds  complement accuracy <= 60%  stability(nodes) > 0.2 over 2 seeds\n"
        "  control random_model <= 5%  exact_match >= 0.9 }\n"
    )
    conditions = found.checks[0].conditions
    assert [each.seeds for each in conditions] == [3, None, 2, None, None]
    assert [quantities(each.expression)[0] for each in conditions] == [
        ("stability", ("edges", "iou")),
        ("accuracy", ("complement",)),
        ("stability", ("nodes", "iou")),
        ("control", ("random_model",)),
        ("exact_match", ("model", "circuit")),
    ]
    assert holds(conditions[1].expression, lambda *_: 0.5)


def test_a_sheaf_is_a_circuit_of_another_kind() -> None:
    found = stored("sheaves_and_sweeps")
    sheaf = found.any_circuit("s")
    assert isinstance(sheaf, CircuitSpec)
    assert (sheaf.kind, sheaf.constraints[0].part) == ("sheaf", "weights")
