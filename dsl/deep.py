"""`circ check --deep`: what the models' configurations, their tokenizers and the data themselves say about a file.

No weights are read and nothing is downloaded. A tokenizer is read by transformers, where that is installed and has it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphir.diagnostics import Diagnostic, Label, Severity, Span
from graphir.errors import GraphirError

if TYPE_CHECKING:
    from dsl.model_facts import ModelFacts
    from dsl.spec import CircuitSpec, ModelSpec, Spec, TaskSpec
    from passes.examples import Example

MARGIN = 1.2
"""How far the estimate of a graph's size may be below what it is."""
MAX_EXAMPLES = 500
"""So many examples of a task are tokenized; a mistake in the data rarely spares the first ones."""


def check_deep(spec: Spec, facts: Mapping[str, ModelFacts]) -> list[Diagnostic]:
    """Findings about a specification that has no errors. `facts` are by the name of the model."""
    found: list[Diagnostic] = []
    examples: dict[str, list[Example]] = {}
    for model in spec.models:
        if model.name not in facts and model.kind != "python":
            note = "layers, heads and lengths were not checked; the run will look for it again"
            found.append(_report("C907", f"nothing is known of `{model.reference}`", model.span, note, warning=True))
    for task in spec.tasks:
        read = _examples(task, spec)
        if isinstance(read, Diagnostic):
            found.append(read)
        else:
            examples[task.name] = read
            found += _split(task, read)
    found += _tokens(spec, facts, examples)
    for circuit in spec.circuits:
        found += _sizes(circuit, spec, facts)
    return found


def _report(code: str, message: str, span: Span, note: str = "", *, warning: bool = False) -> Diagnostic:
    severity = Severity.WARNING if warning else Severity.ERROR
    lines = span.text.split("\n", 1)[0]
    place = span.source.span(span.start, span.start + len(lines.rstrip()))
    return Diagnostic(code, message, (Label(place),), (note,) if note else (), severity=severity)


def _examples(task: TaskSpec, spec: Spec) -> list[Example] | Diagnostic:
    from dsl.tasks import find_task
    from dsl.tasks.jsonl import read_jsonl
    from dsl.translate import keeps

    try:
        if task.data.kind == "jsonl":
            read = read_jsonl(spec.folder / task.data.reference, limit=task.data.options.get("n"), at=task.position)
        else:
            options = {name: value for name, value in task.data.options.items() if value is not None}
            read = find_task(task.data.reference).generate(options)
    except GraphirError as error:
        return _report("C905", str(error.message).split("\n", 1)[0], task.data.span)
    kept = [each for each in read if keeps(task.where, each)] if task.where is not None else read
    if not kept:
        return _report("C906", f"no example of `{task.parent}` is in the subtask `{task.name}`", task.span)
    return kept


def _split(task: TaskSpec, examples: Sequence[Example]) -> Iterator[Diagnostic]:
    """Whether every part of the split gets something."""
    parts = sum(share > 0 for share in (task.split.train, task.split.validation, task.split.test))
    by_template = task.split.by == "template" and task.where is None
    groups = {each.template if by_template else each.clean for each in examples}
    if len(groups) < parts:
        words = "templates" if by_template else "examples"
        note = "split `by example`, or give more templates" if by_template else "give more examples"
        message = f"{parts} parts need {parts} {words}, and `{task.name}` has {len(groups)}"
        yield _report("C906", message, task.split.span, note)


def _tokens(
    spec: Spec, facts: Mapping[str, ModelFacts], examples: Mapping[str, Sequence[Example]]
) -> Iterator[Diagnostic]:
    """Lengths and single-token answers of each task with the tokenizer of each model it is used with."""
    pairs = {(c.graph.model.name, c.task.name): (c.graph.model, c.task) for c in spec.circuits}
    tokenizers: dict[str, Any] = {}
    for model, task in pairs.values():
        if task.name not in examples or model.kind in ("builtin", "python"):
            continue
        if model.name not in tokenizers:
            tokenizers[model.name] = read_tokenizer(model, spec.folder)
            if tokenizers[model.name] is None:
                message = f"no tokenizer of `{model.reference}` is at hand"
                yield _report("C903", message, model.span, "lengths and answers were not checked", warning=True)
        if tokenizers[model.name] is not None:
            known = facts.get(model.name)
            yield from _of_task(task, examples[task.name], tokenizers[model.name], known.context if known else None)


def read_tokenizer(model: ModelSpec, folder: Path) -> Any:
    """The tokenizer of a model that is on this machine; None when there is none. Of a GGUF file the vocabulary is read,
    not the weights."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    try:
        if model.kind == "tracr":
            from dsl.builtin.tracr import read_tracr
            from dsl.model_files import find_tracr

            return read_tracr(find_tracr(model.reference, folder)).tokenizer
        name, where = _tokenizer_place(model, folder)
        from transformers import AutoTokenizer

        with redirect_stderr(io.StringIO()):  # the conversion of a vocabulary draws a bar
            return AutoTokenizer.from_pretrained(name, local_files_only=True, **where)
    except Exception:  # whatever is wrong with it, the run will say; here it is only not known
        return None


def _tokenizer_place(model: ModelSpec, folder: Path) -> tuple[str, dict[str, Any]]:
    """What transformers is to be asked for."""
    from dsl.model_files import find_gguf, locate_checkpoint

    if model.kind == "gguf":
        path = find_gguf(model.reference, folder, package=model.package)
        return str(path.parent), {"gguf_file": path.name}
    found = locate_checkpoint(model.reference, folder, package=model.package, revision=model.revision)
    return (str(found), {}) if found.is_dir() else (model.reference, {"revision": model.revision or "main"})


def _of_task(task: TaskSpec, examples: Sequence[Example], tokenizer: Any, context: int | None) -> Iterator[Diagnostic]:
    """The first example of each mistake, and how many there are."""
    found: dict[str, list[str]] = {}
    seen = examples[:MAX_EXAMPLES]
    for example in seen:
        for code, message in _mistakes(task, example, tokenizer, context):
            found.setdefault(code, []).append(message)
    for code, messages in found.items():
        note = f"so it is with {len(messages)} of {len(seen)} examples" if len(messages) > 1 else ""
        yield _report(code, messages[0], task.data.span, note)


def _mistakes(task: TaskSpec, example: Example, tokenizer: Any, context: int | None) -> Iterator[tuple[str, str]]:
    from passes.tokenizing import answer_id, check_position, prompt_ids

    try:
        length = len(prompt_ids(example.clean, tokenizer)[0])
        if example.position is not None:
            check_position(example.position, prompt_ids(example.clean, tokenizer)[0], tokenizer)
        if context is not None and length > context:
            yield "C902", f"a prompt has {length} tokens, the model reads {context}: {_short(example.clean)}"
        if example.counterfactual is not None and task.ablation == "interchange":
            other = len(prompt_ids(example.counterfactual, tokenizer)[0])
            if other != length:
                yield "C904", f"prompt and counterfactual have {length} and {other} tokens: {_short(example.clean)}"
        for role, text in (("answer", example.answer), ("distractor", example.distractor)):
            if text is not None and (role == "answer" or task.against is not None):
                answer_id(role, text, example.clean, tokenizer)
    except GraphirError as error:
        yield "C901", str(error.message).split("\n", 1)[0]


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _sizes(circuit: CircuitSpec, spec: Spec, facts: Mapping[str, ModelFacts]) -> Iterator[Diagnostic]:
    """Whether as many edges as are asked for exist, and whether a share of them is at least one."""
    known = facts.get(circuit.graph.model.name)
    least = max((int(c.value or 0) for c in circuit.constraints if _is_least(c)), default=0)
    asked = max(least, circuit.top.count or 0 if circuit.top and circuit.top.part == "edges" else 0)
    share = circuit.density
    if known is None or not (asked or share):
        return
    from dsl.running.sizes import graph_size, model_size, tensor_shapes

    try:
        size = model_size(circuit.graph.model, known, tensor_shapes(circuit.graph.model, spec.folder))
    except (GraphirError, OSError, ValueError):
        return
    edges = graph_size(circuit.graph, size).edges if size else None
    if edges is not None and asked > edges:
        span = circuit.top.span if circuit.top else circuit.constraints[0].span
        yield _report("C908", f"{asked:,} edges are asked for, and `{circuit.graph.name}` has about {edges:,}", span)
    if edges is not None and share is not None and share * edges * MARGIN < 1:
        span = circuit.top.span if circuit.top else next(c.span for c in circuit.constraints if c.part == "edges")
        yield _report("C501", f"{share:.4%} of the about {edges:,} edges of `{circuit.graph.name}` is not one", span)


def _is_least(constraint: Any) -> bool:
    return constraint.quantity == "edges" and constraint.operator in (">=", ">") and constraint.value is not None
