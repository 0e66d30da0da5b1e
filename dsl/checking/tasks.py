"""Tasks and subtasks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dsl import tree
from dsl.catalog import builtin_data
from dsl.checking.context import Context, as_task, every
from dsl.checking.paths import relative_path
from dsl.checking.sections import known_builtin
from dsl.checking.values import amount_of, describe, read_block
from dsl.schema import (
    ABLATIONS,
    DATA_KINDS,
    JSONL_FIELDS,
    MEANS,
    METRICS,
    OPPONENTS,
    POSITIONS,
    SPLITS,
    TARGETS,
    TASK_ATTRIBUTES,
    data_fields,
)
from dsl.spec import DataSpec, SplitSpec, TaskSpec, frozen
from dsl.suggest import closest_word

ONCE = {tree.Data: "data", tree.Split: "split", tree.Predict: "predict", tree.Ablate: "ablate", tree.Metric: "metric"}


def check_task(context: Context, section: tree.Task) -> TaskSpec | None:
    """A task: each statement once, data and prediction that fit together."""
    found = _statements(context, section)
    subtask = section.name.text.partition(".")[2]
    if "data" not in found and not subtask:
        note = 'for example `data builtin "ioi" { n: 400  seed: 0 }` or `data jsonl "examples.jsonl"`'
        context.error(
            "C403",
            f"the task `{section.name.text}` has no data",
            section.name.span,
            "needs a `data` statement",
            notes=[note],
        )
    data = _data(context, found["data"]) if "data" in found else None
    split = _split(context, found.get("split"), section)
    target = _prediction(context, found.get("predict"))
    ablation = check_ablation(context, found.get("ablate"))
    metric = _metric(context, found.get("metric"), found.get("predict"), target)
    if data is not None and target is not None and target[2] == "position" and data.kind != "jsonl":
        help = 'a data file says one for each example: `data jsonl "examples.jsonl"`'
        place = found["predict"].at.span
        message = f"`at position` does not go with `{data.kind}` data"
        context.error("C405", message, place, "says no positions", help=help)
        return None
    if data is None or split is None or target is None or ablation is None or metric is None:
        return None
    return TaskSpec(section.span, section.name.text, data, split, *target, ablation, metric)


def check_tasks(context: Context, section: tree.Task) -> list[TaskSpec] | None:
    """A task and its subtasks, each a task of its own called `TASK.NAME`."""
    task = check_task(context, section)
    found = [] if task is None else [task]
    for subtask in section.subtasks:
        if any(isinstance(each, tree.Subtask) for each in subtask.statements):
            inner = next(each for each in subtask.statements if isinstance(each, tree.Subtask))
            context.error("C405", "a subtask has no subtasks", inner.span, help="put it into the task itself")
        if subtask.name.is_missing:
            continue
        if subtask.where is None and not subtask.statements:
            help = f"for example `subtask {subtask.name.text} where template == 1`"
            message = f"the subtask `{subtask.name.text}` is the whole task"
            context.error("C403", message, subtask.span, "says nothing of its own", help=help)
            continue
        good = subtask.where is None or _check_where(context, subtask.where)
        checked = check_task(context, as_task(section, subtask))
        if checked is not None and good:
            whole = replace(checked, parent=section.name.text, where=subtask.where)
            context.specs.setdefault(whole.name, whole)
            found.append(whole)
    return found


def _check_where(context: Context, condition: tree.Expression) -> bool:
    """Whether a condition is about an example's texts."""
    match condition:
        case tree.Binary() if condition.operator in tree.LOGIC:
            return every(_check_where(context, side) for side in (condition.left, condition.right))
        case tree.Unary(operator="not"):
            return _check_where(context, condition.operand)
        case tree.Member():
            return _check_attribute(context, condition.left)
        case tree.Binary(operator="==" | "!="):
            good = _check_attribute(context, condition.left)
            if isinstance(condition.right, tree.Name | tree.Number | tree.Text | tree.Pattern):
                return good
            context.error("C301", f"expected a text, found {describe(condition.right)}", condition.right.span)
            return False
        case tree.Name() if condition.text not in TASK_ATTRIBUTES:
            return _check_attribute(context, condition)
    help = 'compare one of its texts: `template == 3`, `answer in {"is", "was"}`'
    context.error("C301", "this is no condition on examples", condition.span, help=help)
    return False


def _check_attribute(context: Context, name: tree.Expression) -> bool:
    if isinstance(name, tree.Name):
        return context.word("C207", "attribute", name, TASK_ATTRIBUTES, "attributes of examples") is not None
    attributes = f"attributes of examples: {', '.join(TASK_ATTRIBUTES)}"
    context.error("C301", f"expected an attribute, found {describe(name)}", name.span, notes=[attributes])
    return False


def _statements(context: Context, section: tree.Task) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for statement in section.statements:
        if isinstance(statement, tree.Subtask):
            continue
        word = ONCE[type(statement)]
        first = found.setdefault(word, statement)
        if first is not statement:
            where = [(first.span, "first given here")]
            context.error("C402", f"`{word}` is given twice", statement.span, "given again here", others=where)
    return found


def _data(context: Context, data: tree.Data) -> DataSpec | None:
    kind = context.word("C209", "data kind", data.kind, DATA_KINDS, "data kinds")
    if kind is None or data.reference.is_missing:
        return None
    if kind == "builtin":
        if not known_builtin(context, "C208", "built-in data set", data.reference, builtin_data()):
            return None
        fields, owner = data_fields(data.reference.value), f'the data "{data.reference.value}"'
    else:
        if not data.reference.value.strip():
            context.error("C301", "the data file's name is empty", data.reference.span)
            return None
        fields, owner = {each.name: each for each in JSONL_FIELDS}, "a data file"
    options = read_block(context, data.block, fields, owner)
    reference = data.reference.value if kind == "builtin" else relative_path(context, data.reference)
    return None if options is None else DataSpec(data.span, kind, reference, frozen(options))


def _split(context: Context, split: tree.Split | None, section: tree.Task) -> SplitSpec | None:
    if split is None:
        return SplitSpec(section.name.span)
    by = context.word("C209", "split", split.by, SPLITS, "a split is by") if split.by else "template"
    if len(split.shares) not in (2, 3):
        note = "write training / test, or training / validation / test: `split 50 / 25 / 25 by template`"
        context.error("C306", f"a split has two or three shares, not {len(split.shares)}", split.span, notes=[note])
        return None
    shares = []
    for written in split.shares:
        share = amount_of(context, written)
        if share is None or share.is_missing:
            return None
        if share.unit not in ("", "%") or not 0 <= share.value <= 100:
            context.error(
                "C302" if share.unit not in ("", "%") else "C303",
                f"`{share.text}` is not a share",
                share.span,
                "expected percent, 0 to 100",
            )
            return None
        shares.append(share.value)
    if abs(sum(shares) - 100) > 1e-6:
        context.error(
            "C305",
            f"the shares of the split sum to {sum(shares):g}, not 100",
            split.shares[0].span.to(split.shares[-1].span),
        )
        return None
    if shares[0] == 0 or shares[-1] == 0:
        context.error(
            "C303", "training and test need examples", split.span, "the first and the last share must be above 0"
        )
        return None
    middle = shares[1] if len(shares) == 3 else 0.0
    return None if by is None else SplitSpec(split.span, shares[0] / 100, middle / 100, shares[-1] / 100, by)


def _prediction(context: Context, predict: tree.Predict | None) -> tuple[str, str | None, str] | None:
    if predict is None:
        return "answer", "distractor", "last"
    target = context.word("C209", "target", predict.target, TARGETS, "what is predicted is the")
    against = (
        context.word("C209", "opponent", predict.against, OPPONENTS, "it is compared with the")
        if predict.against
        else None
    )
    at = context.word("C209", "position", predict.at, POSITIONS, "positions") if predict.at else "last"
    if target is None or at is None or (predict.against and against is None):
        return None
    return target, against, at


def check_ablation(context: Context, ablate: tree.Ablate | None) -> str | None:
    """The words of an ablation; interchange when nothing is said."""
    if ablate is None:
        return "interchange"
    kind = context.word("C209", "ablation", ablate.kind, ABLATIONS, "ablations")
    if kind is None or ablate.by is None:
        return kind
    if kind != "mean" or ablate.by.text not in MEANS:
        if not ablate.by.is_missing:
            close = closest_word(ablate.by.text, list(MEANS)) if kind == "mean" else None
            context.error(
                "C209",
                f"`{kind} by {ablate.by.text}` is not an ablation",
                ablate.by.span,
                f"only {' and '.join(f'`mean by {each}`' for each in MEANS)} have a `by`",
                help=f"did you mean `{close}`?" if close else "",
                fix=close or None,
            )
        return None
    return f"mean by {ablate.by.text}"


def _metric(context: Context, metric: tree.Metric | None, predict: tree.Predict | None, target: Any) -> str | None:
    against = target[1] if target else "distractor"
    if metric is None:
        return "logit_diff" if against else "kl"
    word = context.word("C204", "metric", metric.name, METRICS, "metrics")
    if word and target and METRICS[word].needs_distractor and not against and predict:
        others = [(predict.span, "nothing to compare the answer with")]
        help = "write `predict answer vs distractor at last`"
        context.error("C405", f"`{word}` needs a distractor", metric.name.span, others=others, help=help)
        return None
    return word
