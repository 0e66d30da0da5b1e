"""Reflexives agree in number: "The girls near the door hurt" -> " themselves", not " herself". Torch-free.

The counterfactual has the subject in the other number. After BLiMP's `anaphor_number_agreement` (Warstadt et al. 2020),
written anew with frames, so that a circuit can be judged on frames it never saw.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from dsl.tasks.kinds import COUNT, SEED, IsSingle, TaskKind, split_words, usable_words
from graphir.errors import DataError
from passes.examples import Example

FRAMES = {
    "plain": "The {s} {v}",
    "yesterday": "Yesterday the {s} in the {p} {v}",
    "because": "This happened because the {s} {v}",
    "think": "I think that the {s} from the {p} {v}",
    "know": "We know that some time ago the {s} {v}",
    "when": "Everyone in the {p} laughed when the {s} {v}",
    "later": "A year later the old {s} {v}",
    "story": "In the story, the {s} at the {p} {v}",
    "later_in": "Later in the {p} the {s} {v}",
    "heard": "I heard that the {s} {v}",
    "told": "He told me that the {s} near the {p} {v}",
    "often": "Quite often the {s} {v}",
    "meal": "After the meal the {s} in the {p} {v}",
    "show": "Before the show the {s} {v}",
    "said": "It is said that the {s} by the {p} {v}",
    "film": "In the film the {s} outside the {p} {v}",
    "young": "The young {s} {v}",
    "morning": "One morning the {s} behind the {p} {v}",
    "truth": "The truth is that the {s} {v}",
    "why": "Nobody knew why the {s} of the {p} {v}",
    "week": "Last week the {s} {v}",
    "wonder": "I wonder whether the {s} from the {p} {v}",
    "finally": "Finally the tired {s} {v}",
    "book": "The book says that the {s} in the {p} {v}",
}

# singular, plural, reflexive of the singular
SUBJECTS = (
    "girl girls herself, boy boys himself, woman women herself, man men himself, king kings himself, queen queens "
    "herself, mother mothers herself, father fathers himself, sister sisters herself, brother brothers himself, "
    "daughter daughters herself, son sons himself, wife wives herself, husband husbands himself, lady ladies herself, "
    "actress actresses herself, uncle uncles himself, aunt aunts herself"
)
VERBS = split_words("hurt saw helped admired blamed described found taught loved hated questioned asked")
PLACES = split_words("house city village school garden church office hospital market kitchen")
PLURAL = " themselves"


def stream(_options: Mapping[str, int | str], rng: random.Random, is_single: IsSingle) -> Iterator[Example]:
    """Endless examples, the frames and the two numbers in turn. Subjects need one token in both numbers."""
    subjects = [entry.split() for entry in SUBJECTS.split(", ")]
    usable = [s for s in subjects if all(is_single(f" {word}") for word in s)]
    if len(usable) < 2 or not is_single(PLURAL):
        raise DataError("task `anaphor_number` needs subjects and reflexives of one token each")
    verbs = usable_words("anaphor_number", "verbs", VERBS, is_single, least=2)
    places = usable_words("anaphor_number", "places", PLACES, is_single, least=2)
    while True:
        for number in (0, 1):
            for template, frame in FRAMES.items():
                subject, verb, place = rng.choice(usable), rng.choice(verbs), rng.choice(places)
                answers = (f" {subject[2]}", PLURAL)
                yield Example(
                    clean=frame.format(s=subject[number], v=verb, p=place),
                    counterfactual=frame.format(s=subject[1 - number], v=verb, p=place),
                    answer=answers[number],
                    distractor=answers[1 - number],
                    template=template,
                )


TASK = TaskKind("anaphor_number", "reflexives that agree in number", stream, tuple(FRAMES), (COUNT, SEED))
