"""Determiners and nouns agree: "Mary is selling these" -> " books", not " book". Torch-free.

The counterfactual has the determiner in the other number. After BLiMP's `determiner_noun_agreement_1` (Warstadt et al.
2020), written anew with frames, so that a circuit can be judged on frames it never saw.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import count, product

from dsl.tasks.kinds import COUNT, SEED, IsSingle, TaskKind, split_words, usable_words
from dsl.tasks.subject_verb import PAIRS
from graphir.errors import DataError
from passes.examples import Example

FRAMES = {
    "sells": "{name} is selling {d}",
    "saw": "Yesterday {name} saw {d}",
    "about": "{name} often talks about {d}",
    "bring": "Please ask {name} to bring {d}",
    "like": "I know that {name} would like {d}",
    "wrote": "In the letter, {name} wrote about {d}",
    "left": "When {name} left, nobody wanted {d}",
    "never": "Before last week, {name} had never cared for {d}",
    "wants": "{name} wants to keep {d}",
    "forgot": "This morning {name} forgot about {d}",
    "looking": "We found {name} looking at {d}",
    "gave": "After lunch {name} gave away {d}",
    "asked": "Someone asked {name} about {d}",
    "told": "He told {name} to look after {d}",
    "if": "If {name} comes, give back {d}",
    "because": "They laughed because {name} was afraid of {d}",
    "soon": "Very soon {name} will need {d}",
    "think": "I think that {name} has lost {d}",
    "from": "From the window {name} could see {d}",
    "although": "Although it was late, {name} still carried {d}",
    "friend": "A friend of {name} is interested in {d}",
    "ever": "Has {name} ever painted {d}",
    "year": "Last year {name} paid a lot for {d}",
    "sooner": "Sooner or later {name} will sell {d}",
}
NAMES = split_words(
    "Mary John Anna David Laura Peter Susan Robert Helen James Sarah Thomas Alice Paul Julia George Emma Jack Rachel "
    "Martin Lucy Henry Kate Simon Claire Daniel Jane Adam Emily Frank Karen Mark"
)
DETERMINERS = (("this", "these"), ("that", "those"))


def stream(_options: Mapping[str, int | str], rng: random.Random, is_single: IsSingle) -> Iterator[Example]:
    """Endless examples, the frames and the two numbers in turn. Nouns and determiners need one token each."""
    nouns = [pair for pair in PAIRS if all(is_single(f" {noun}") for noun in pair)]
    determiners = [pair for pair in DETERMINERS if all(is_single(f" {word}") for word in pair)]
    if len(nouns) < 2 or not determiners:
        raise DataError("task `determiner_noun` needs nouns and determiners of one token each in both numbers")
    names = usable_words("determiner_noun", "names", NAMES, is_single, least=2)
    pairs = list(product(names, determiners))
    rng.shuffle(pairs)
    for turn in count():
        for number in (0, 1):
            for place, (template, frame) in enumerate(FRAMES.items()):
                name, determiner = pairs[(turn + place) % len(pairs)]  # all of them in a frame before one comes again
                noun = rng.choice(nouns)
                yield Example(
                    clean=frame.format(name=name, d=determiner[number]),
                    counterfactual=frame.format(name=name, d=determiner[1 - number]),
                    answer=f" {noun[number]}",
                    distractor=f" {noun[1 - number]}",
                    template=template,
                )


TASK = TaskKind("determiner_noun", "nouns that agree with their determiner", stream, tuple(FRAMES), (COUNT, SEED))
