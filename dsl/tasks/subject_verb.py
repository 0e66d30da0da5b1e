"""Number agreement across a phrase: "The keys near the cabinet" -> " are", not " is". Torch-free.

The counterfactual has the subject in the other number; the noun in between varies in number on its own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from dsl.tasks.kinds import COUNT, SEED, IsSingle, TaskKind, usable_words
from graphir.errors import DataError
from passes.examples import Example

# {s} is the subject, {o} a noun that the verb does not agree with.
FRAMES = {
    "near": "The {s} near the {o}",
    "behind": "Note that the {s} behind the {o}",
    "yesterday": "We saw yesterday that the {s} next to the {o}",
    "think": "I think that the {s} beside the {o}",
    "with": "Today the {s} with the {o}",
    "from": "They say the {s} from the {o}",
    "because": "This happened because the {s} in front of the {o}",
    "under": "As you can see, the {s} under the {o}",
    "look": "Look how the {s} above the {o}",
    "seems": "It seems that the {s} across from the {o}",
    "people": "People say that the {s} around the {o}",
    "then": "Back then the {s} before the {o}",
    "told": "He told us that the {s} beyond the {o}",
    "morning": "Every morning the {s} opposite the {o}",
    "left": "On the left, the {s} by the {o}",
    "where": "This is where the {s} close to the {o}",
    "although": "Although the {s} near the {o}",
    "asked": "She asked whether the {s} behind the {o}",
    "yard": "In the yard the {s} facing the {o}",
    "photo": "In the photo, the {s} below the {o}",
    "heard": "Someone had heard that the {s} on top of the {o}",
    "perhaps": "Perhaps the {s} to the right of the {o}",
    "turned": "It turned out that the {s} beneath the {o}",
    "later": "Many years later the {s} inside the {o}",
}

NOUNS = (
    "key keys, book books, dog dogs, car cars, boy boys, girl girls, teacher teachers, doctor doctors, student "
    "students, table tables, house houses, tree trees, picture pictures, letter letters, bird birds, cat cats, "
    "friend friends, worker workers, farmer farmers, artist artists, lawyer lawyers, chair chairs, box boxes, "
    "ship ships"
)
PAIRS = tuple((pair.split()[0], pair.split()[1]) for pair in NOUNS.split(", "))
VERBS = ((" is", " are"), (" was", " were"), (" has", " have"))


def stream(_options: Mapping[str, int | str], rng: random.Random, is_single: IsSingle) -> Iterator[Example]:
    """Endless examples, the frames and the two numbers in turn. Nouns need one token in both numbers."""
    usable = set(usable_words("subject_verb", "nouns", [noun for pair in PAIRS for noun in pair], is_single, least=2))
    pairs = [pair for pair in PAIRS if usable.issuperset(pair)]
    verbs = [verb for verb in VERBS if is_single(verb[0]) and is_single(verb[1])]
    if len(pairs) < 2 or not verbs:
        raise DataError("task `subject_verb` needs nouns and verbs of one token each in both numbers")
    while True:
        for number in (0, 1):
            for template, frame in FRAMES.items():
                subject, other = rng.sample(pairs, 2)
                verb, between = rng.choice(verbs), rng.choice(other)
                yield Example(
                    clean=frame.format(s=subject[number], o=between),
                    counterfactual=frame.format(s=subject[1 - number], o=between),
                    answer=verb[number],
                    distractor=verb[1 - number],
                    template=template,
                )


TASK = TaskKind("subject_verb", "number agreement of subject and verb", stream, tuple(FRAMES), (COUNT, SEED))
