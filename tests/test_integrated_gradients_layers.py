"""EAP-IG on models that have no residual stream: the path is that of the inputs themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import graphir
import passes
from passes.tensor_task import TensorTask
from tests.modules import FeedForward, SmallResNet, feature_example, image_example, prepared

torch.set_num_threads(1)


def metric(outputs: list[Tensor]) -> Tensor:
    weights = torch.linspace(-1, 1, outputs[0].shape[-1])
    return (outputs[0].tanh() * weights).sum()


def test_scores_are_weight_times_difference_times_the_mean_gradient_on_the_way() -> None:
    model = prepared(FeedForward())
    graph = graphir.trace(model, feature_example(), granularity="neuron")
    (clean,), (corrupt,) = feature_example(seed=1), feature_example(seed=2)
    steps = 3
    found = graphir.lower(graph).attribute((clean,), (corrupt,), metric, steps=steps).numpy()
    gradients = {name: [torch.zeros(0)] * 0 for name in ("fc1", "fc2", "out")}
    for step in range(1, steps + 1):
        point = corrupt + step / steps * (clean - corrupt)
        kept: dict[str, Tensor] = {}

        def keep(module: torch.nn.Module, _: object, value: Tensor, kept: dict[str, Tensor] = kept) -> None:
            value.requires_grad_().retain_grad()
            kept[next(name for name, child in model.named_children() if child is module)] = value

        hooks = [getattr(model, name).register_forward_hook(keep) for name in gradients]
        with torch.enable_grad():
            metric([model(point)]).backward()
        for hook in hooks:
            hook.remove()
        for name, value in kept.items():
            assert value.grad is not None
            gradients[name].append(value.grad)
    reads = {name: [] for name in gradients}  # type: ignore[var-annotated]
    for x in (clean, corrupt):
        hooks = [
            getattr(model, name).register_forward_pre_hook(lambda _, args, name=name: reads[name].append(args[0]))
            for name in gradients
        ]
        model(x)
        for hook in hooks:
            hook.remove()
    writers = {"fc1": "in", "fc2": "fc1", "out": "fc2"}
    for name, before in writers.items():
        difference = reads[name][0] - reads[name][1]
        mean = torch.stack(gradients[name]).mean(0)
        expected = getattr(model, name).weight * torch.einsum("bo,bi->oi", mean, difference)
        for (o, i), value in np.ndenumerate(expected.detach().numpy()):
            edge = graph.edge(f"{before}.n{i} -> {name}.n{o}")
            assert found[edge.index] == pytest.approx(value, abs=1e-5, rel=1e-4)


@pytest.mark.parametrize(
    ("model", "example", "granularity"),
    [(FeedForward(), feature_example, "neuron"), (SmallResNet(), image_example, "channel")],
    ids=["perceptron", "resnet"],
)
def test_what_leaves_the_inputs_sums_to_what_the_metric_gains(model, example, granularity) -> None:  # type: ignore[no-untyped-def]
    """Completeness of integrated gradients (Sundararajan et al. 2017) at the inputs, the writers that nothing feeds."""
    model = prepared(model)
    graph = graphir.trace(model, example(), granularity=granularity)
    clean, corrupt = example(seed=1), example(seed=2)
    found = graphir.lower(graph).attribute(clean, corrupt, metric, steps=200)
    first = torch.tensor([not graph.nodes[edge.src].ports for edge in graph.edges])
    with torch.no_grad():
        gained = float(metric([model(*clean)]) - metric([model(*corrupt)]))
    assert float(found[first].sum()) == pytest.approx(gained, abs=0.02 * max(1.0, abs(gained)))


def test_one_step_is_edge_attribution() -> None:
    model = prepared(SmallResNet())
    graph = graphir.trace(model, image_example(), granularity="channel")
    program = graphir.lower(graph)
    clean, corrupt = image_example(seed=1), image_example(seed=2)
    masks = program.new_masks(edges=True)
    assert masks.edges is not None
    outputs = program.outputs(clean, corrupt, masks)
    (expected,) = torch.autograd.grad(metric(outputs), [masks.edges])
    torch.testing.assert_close(program.attribute(clean, corrupt, metric), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("ablation", ["interchange", "zero", "mean"])
def test_the_pass_runs_on_a_task_of_tensors(ablation) -> None:  # type: ignore[no-untyped-def]
    model = prepared(FeedForward())
    generator = torch.Generator().manual_seed(0)
    inputs = {"x": torch.randn(24, 5, generator=generator)}
    other = {"x": torch.randn(24, 5, generator=generator)}
    answers = torch.arange(24) % 4
    task = TensorTask.from_tensors(
        "numbers", inputs, answers, distractors=(answers + 1) % 4, counterfactual=other, ablation=ablation
    )
    graph = graphir.trace(model, {"x": inputs["x"][:2]}, granularity="neuron")
    circuit = passes.run("eap_ig", graphir.lower(graph), task, steps=3)
    assert np.isfinite(circuit.scores["edges"]).all()
    assert np.abs(circuit.scores["edges"]).max() > 0
