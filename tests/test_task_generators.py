"""Built-in tasks and JSONL data, as text."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from dsl.tasks import TASK_MODULES, find_task, task_names
from dsl.tasks.anaphor_number import SUBJECTS
from dsl.tasks.ioi import FRAMES
from dsl.tasks.jsonl import read_jsonl
from graphir.errors import DataError, UnavailableError, UnknownNameError
from passes.examples import Example

SUBJECT_NUMBER = {word: plural for entry in SUBJECTS.split(", ") for plural, word in enumerate(entry.split()[:2])}
GOOD = '{"clean": "a b", "counterfactual": "a c", "answer": " x", "distractor": " y", "template": "t"}'


# Registry and options


def test_every_task_has_its_own_name_and_examples() -> None:
    for name in task_names():
        task = find_task(name)
        assert task.name == name
        assert len(task.generate({"n": 20})) == 20


def test_listing_and_generating_imports_no_torch() -> None:
    code = (
        "import sys; from dsl.tasks import find_task, task_names;"
        "[find_task(n).generate({'n': 5}) for n in task_names()];"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def test_an_unknown_task_gets_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="no built-in task named `iio`\n  help: did you mean `ioi`"):
        find_task("iio")


def test_an_unknown_option_gets_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="no option of task `ioi` named `sed`\n  help: did you mean `seed`"):
        find_task("ioi").generate({"sed": 1})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "`n` is at least 1, not 0"),
        ({"n": True}, "`n` is a whole number, not True"),
        ({"n": "many"}, "`n` is a whole number, not 'many'"),
        ({"seed": -1}, "`seed` is at least 0, not -1"),
        ({"n": 10**9}, "`n` is at most 1000000, not 1000000000"),
        ({"order": "baab"}, "`order` is one of both, abba, baba, not 'baab'"),
    ],
)
def test_bad_options_are_errors(options: dict[str, int | str], message: str) -> None:
    assert find_task("ioi").problems(options) == [message]
    with pytest.raises(DataError, match=message):
        find_task("ioi").generate(options)


def test_asking_for_more_examples_than_there_are_is_an_error() -> None:
    with pytest.raises(DataError, match=r"has about \d+ different examples, 500000 were asked for"):
        find_task("subject_verb").generate({"n": 500_000})


@pytest.mark.parametrize("name", sorted(TASK_MODULES))
def test_examples_are_fixed_by_the_seed_and_all_different(name: str) -> None:
    task = find_task(name)
    one = task.generate({"n": 100, "seed": 1})
    assert one == task.generate({"n": 100, "seed": 1})
    assert one != task.generate({"n": 100, "seed": 2})
    assert len({example.clean for example in one}) == 100
    assert task.generate({"n": 40, "seed": 1}) == one[:40]


@pytest.mark.parametrize("name", sorted(TASK_MODULES))
def test_templates_come_in_equal_numbers(name: str) -> None:
    task = find_task(name)
    counts = Counter(example.template for example in task.generate({"n": 20 * len(task.templates)}))
    assert set(counts) == set(task.templates)
    assert len(task.templates) >= 8
    assert max(counts.values()) - min(counts.values()) <= 4


@pytest.mark.parametrize("name", sorted(TASK_MODULES))
def test_answers_have_their_space_and_differ_from_distractors(name: str) -> None:
    for example in find_task(name).generate({"n": 60}):
        assert example.distractor is not None and example.counterfactual is not None
        for word in (example.answer, example.distractor):
            assert word.startswith(" ") or word.isdigit()  # digits go on with a number
        assert example.answer != example.distractor and example.clean != example.counterfactual
        assert not example.clean.endswith(" ")


# Indirect objects


def ioi(**options: int | str) -> list[Example]:
    return find_task("ioi").generate({"n": 340, **options})


def test_the_counterfactual_of_ioi_changes_the_second_subject_only() -> None:
    for example in ioi():
        assert example.counterfactual is not None and example.distractor is not None
        before, after = words(example.clean), words(example.counterfactual)
        changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
        subject, recipient = example.distractor.strip(), example.answer.strip()
        assert len(changed) == 1 and changed[0][0] == subject
        assert changed[0][1] not in (subject, recipient)
        assert before.count(subject) == 2 and before.count(recipient) == 1


def words(text: str) -> list[str]:
    return text.replace(".", "").replace(",", "").replace(";", "").split()


def test_ioi_has_both_orders_in_every_frame() -> None:
    orders = {(row.template, words(row.clean).index(row.answer[1:]) < first_of(row)) for row in ioi()}
    assert orders == {(frame, first) for frame in FRAMES for first in (True, False)}


def first_of(row: Example) -> int:
    assert row.distractor is not None
    return words(row.clean).index(row.distractor[1:])


@pytest.mark.parametrize(("order", "recipient_first"), [("abba", True), ("baba", False)])
def test_ioi_in_one_order(order: str, recipient_first: bool) -> None:
    assert all((words(r.clean).index(r.answer[1:]) < first_of(r)) is recipient_first for r in ioi(order=order))


def test_names_of_several_tokens_are_left_out() -> None:
    short = find_task("ioi").generate({"n": 200}, is_single=lambda word: len(word) <= 5)
    assert all(len(row.answer) <= 5 for row in short)


def test_a_tokenizer_that_splits_every_name_is_an_error() -> None:
    with pytest.raises(DataError, match="task `ioi` needs 3 names of one token, and this tokenizer has 0"):
        find_task("ioi").generate({"n": 2}, is_single=lambda word: False)


# Induction


def test_induction_asks_for_the_word_that_followed() -> None:
    for example in find_task("induction").generate({"n": 200}):
        assert example.counterfactual is not None
        for text, answer in ((example.clean, example.answer), (example.counterfactual, example.distractor)):
            *body, query = text.split()
            assert body.count(query) == 1 and len(set(body)) == len(body)
            assert f" {body[body.index(query) + 1]}" == answer


def test_the_counterfactual_of_induction_has_the_same_words_before_the_query() -> None:
    for example in find_task("induction").generate({"n": 50}):
        assert example.counterfactual is not None
        assert sorted(example.clean.split()[:-1]) == sorted(example.counterfactual.split()[:-1])


# JSON lines


def write(folder: Path, *lines: str | bytes) -> Path:
    path = folder / "pairs.jsonl"
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
    return path


def test_jsonl_is_read_with_its_lines(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, "", '{"clean": "é", "answer": " z", "distractor": null}')
    assert read_jsonl(path) == [
        Example("a b", "a c", " x", " y", "t", "pairs.jsonl:1"),
        Example("é", None, " z", None, "pairs.jsonl:3", "pairs.jsonl:3"),
    ]
    assert len(read_jsonl(path, limit=1)) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "pairs.jsonl:2: not JSON"),
        ("[1]", "pairs.jsonl:2: a line is an object with clean, answer, not an array"),
        ('{"clean": "a"}', "pairs.jsonl:2: no field `answer`"),
        ('{"clean": "a", "anwser": " b"}', "pairs.jsonl:2: unknown field `anwser`\n  help: did you mean `answer`"),
        ('{"clean": 3, "answer": " b"}', "pairs.jsonl:2: `clean` is text, not a number"),
        ('{"clean": "a", "answer": null}', "pairs.jsonl:2: `answer` is text, not null"),
        ('{"clean": "", "answer": " b"}', "pairs.jsonl:2: `clean` is empty"),
        (b'{"clean": "\xff", "answer": " b"}', "pairs.jsonl:2: not UTF-8 at byte 11"),
        ("[" * 100_000, "pairs.jsonl:2: not JSON: too deep or too large"),
        ('{"clean": "' + "a" * (1 << 20) + '"}', "pairs.jsonl:2: the line is longer than 1048576 bytes"),
    ],
    ids=["brace", "array", "missing", "unknown", "number", "null", "empty", "bytes", "deep", "long"],
)
def test_bad_lines_are_errors_with_file_and_line(tmp_path: Path, line: str | bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read_jsonl(write(tmp_path, GOOD, line))
    assert str(caught.value).startswith(message)


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no examples"):
        read_jsonl(write(tmp_path, "", ""))


def test_a_file_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="No such file") as caught:
        read_jsonl(tmp_path / "gone.jsonl")
    assert caught.value.exit_code == 3


# Agreement and years


def test_reflexives_and_nouns_agree_with_what_the_prompt_says() -> None:
    for example in find_task("anaphor_number").generate({"n": 64}):
        plural = example.answer == " themselves"
        subject = next(w for w in example.clean.split() if w in SUBJECT_NUMBER)
        assert SUBJECT_NUMBER[subject] == plural
        assert example.distractor != example.answer
    for example in find_task("determiner_noun").generate({"n": 64}):
        assert (example.clean.split()[-1] in ("these", "those")) == example.answer.endswith(("s", "es"))
        assert example.counterfactual is not None
        assert example.counterfactual.split()[:-1] == example.clean.split()[:-1]


def test_the_later_year_is_later_and_the_other_is_not() -> None:
    tests: list[Callable[[str], bool]] = [lambda word: True, lambda word: len(word) == 1]
    for single in tests:
        for example in find_task("greater_than").generate({"n": 64}, single):
            said = next(w for w in example.clean.split() if w[:4].isdigit())[2:4]
            width = len(example.answer)
            assert width == (2 if single("45") else 1)
            assert example.distractor is not None
            assert int(example.distractor) < int(said[:width]) < int(example.answer)
