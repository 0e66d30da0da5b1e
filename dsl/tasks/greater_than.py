"""Years that come later: "The war lasted from the year 1742 to the year 17" -> "5", not "3". Torch-free.

After Hanna et al. 2023. They sum the probability of all years that are later and of all that are not; here an example
names one of each, drawn at random. Where two digits are one token (GPT-2) both are asked for, else the tens alone. The
counterfactual's year ends in 01, which nothing that can be asked for contradicts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

from dsl.tasks.kinds import COUNT, SEED, IsSingle, TaskKind, split_words
from passes.examples import Example

FRAMES = {
    "lasted": "The {n} lasted from the year {c}{y} to the year {c}",
    "began": "The {n} began in {c}{y} and ended in {c}",
    "ran": "Historians say that the {n} ran from {c}{y} until {c}",
    "started": "It is known that the {n} started in {c}{y} and was over by {c}",
    "between": "We read about the {n} between the years {c}{y} and {c}",
    "went": "For a long time, from {c}{y} to {c}",
    "book": "The book on the {n} covers the years {c}{y} to {c}",
    "during": "During the {n}, which took place from {c}{y} to {c}",
    "stretched": "The {n} stretched from {c}{y} to {c}",
    "continued": "The {n} that began in {c}{y} continued until {c}",
    "broke": "The {n} broke out in {c}{y} and was settled in {c}",
    "lived": "He wrote about the {n} from {c}{y} through {c}",
    "records": "The records of the {n} run from {c}{y} to {c}",
    "went_on": "After it started in {c}{y}, the {n} went on until {c}",
    "paid": "Between {c}{y} and the end of the {n} in {c}",
    "opened": "The {n} was opened in {c}{y} and closed in {c}",
    "school": "At school we learned that the {n} lasted from {c}{y} until {c}",
    "planned": "The {n} was planned in {c}{y} and took place in {c}",
    "first": "The first {n} was in {c}{y} and the second one in {c}",
    "years": "Over the years from {c}{y} to {c}",
    "known": "What is known of the {n} covers {c}{y} to {c}",
    "held": "The {n} was held every year from {c}{y} to {c}",
    "chapter": "This chapter is about the {n} of {c}{y} to {c}",
    "archive": "In the archive, the {n} is dated from {c}{y} to {c}",
}
NOUNS = split_words("war campaign expedition dispute reform strike voyage siege trade program project struggle")
CENTURIES = (11, 12, 13, 14, 15, 16, 17, 18)


def stream(_options: Mapping[str, int | str], rng: random.Random, is_single: IsSingle) -> Iterator[Example]:
    """Endless examples, the frames in turn."""
    both = is_single("45")
    while True:
        for template, frame in FRAMES.items():
            noun, century = rng.choice(NOUNS), rng.choice(CENTURIES)
            tens, ones = rng.randint(2, 7), rng.randint(2, 9)
            if both:
                year = 10 * tens + ones
                answer, distractor = f"{rng.randint(year + 1, 99)}", f"{rng.randint(2, year - 1):02d}"
            else:
                answer, distractor = f"{rng.randint(tens + 1, 9)}", f"{rng.randint(0, tens - 1)}"
            yield Example(
                clean=frame.format(n=noun, c=century, y=f"{tens}{ones}"),
                counterfactual=frame.format(n=noun, c=century, y="01"),
                answer=answer,
                distractor=distractor,
                template=template,
            )


TASK = TaskKind("greater_than", "years that come later", stream, tuple(FRAMES), (COUNT, SEED))
