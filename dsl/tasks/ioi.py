"""Indirect objects: "When Mary and John went to the store, John gave a book to" -> " Mary". Torch-free.

The counterfactual puts a third name where the subject comes again ("..., Anna gave a book to"), so that neither name is
told apart and tokens stay aligned one to one. Each frame comes in both orders of the names (ABBA and BABA), and a frame
goes to one split with both.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

from dsl.tasks.kinds import COUNT, SEED, IsSingle, Option, TaskKind, split_words, usable_words
from passes.examples import Example

# {a} and {b} are the two names in either order, {s} is the subject again, {place} and {object} are filled in.
FRAMES = {
    "went": "When {a} and {b} went to the {place}, {s} gave a {object} to",
    "after": "After {a} and {b} had lunch at the {place}, {s} handed a {object} to",
    "then": "Then, {a} and {b} were working at the {place}. {s} decided to give a {object} to",
    "while": "While {a} and {b} were walking through the {place}, {s} passed a {object} to",
    "morning": "The {place} was quiet this morning when {a} and {b} arrived. {s} offered a {object} to",
    "yesterday": "Yesterday I saw {a} and {b} near the {place}, where {s} sold a {object} to",
    "birthday": "Since {a} and {b} met at the {place} every week, {s} bought a {object} for",
    "letter": "Long after {a} and {b} left the {place}, {s} sent a {object} to",
    "once": "Once {a} and {b} got to the {place}, {s} brought a {object} to",
    "sat": "As {a} and {b} sat in the {place}, {s} offered a {object} to",
    "until": "At the {place}, {a} and {b} were talking quietly until {s} threw a {object} to",
    "because": "Because {a} and {b} work together at the {place}, {s} lent a {object} to",
    "visited": "Last week {a} and {b} visited the {place}. {s} mailed a {object} to",
    "before": "Before {a} and {b} closed the {place}, {s} returned a {object} to",
    "although": "Although {a} and {b} rarely agreed about the {place}, {s} promised a {object} to",
    "everyone": "Everyone saw {a} and {b} enter the {place}; then {s} gave a {object} to",
    "during": "During the long walk to the {place}, {a} and {b} grew tired, so {s} gave a {object} to",
    "heard": "We heard that {a} and {b} own the {place}, and that {s} left a {object} to",
    "finally": "Finally {a} and {b} found the {place}. Smiling, {s} showed a {object} to",
    "outside": "Outside the {place} stood {a} and {b}. Without a word, {s} passed a {object} to",
    "evening": "In the evening {a} and {b} cleaned the {place} before {s} sold a {object} to",
    "story": "In this story {a} and {b} live above the {place}, and one day {s} gives a {object} to",
    "neighbors": "The neighbors {a} and {b} share the {place}. Last year {s} lent a {object} to",
    "reporter": "A reporter met {a} and {b} outside the {place} just as {s} gave a {object} to",
    "friends": "Two friends, {a} and {b}, met at the {place}. Later {s} gave a {object} to",
    "when": "When {a} and {b} came out of the {place}, {s} handed the {object} to",
    "dinner": "During dinner at the {place}, {a} and {b} laughed a lot, and {s} passed the {object} to",
    "train": "On the way to the {place}, {a} and {b} got lost, but {s} showed the {object} to",
    "lost": "Because {a} and {b} had lost their way to the {place}, {s} gave the {object} to",
    "dance": "After the dance at the {place}, {a} and {b} sat down and {s} offered a {object} to",
    "rain": "It rained when {a} and {b} left the {place}, so {s} lent a {object} to",
    "window": "From the window I watched {a} and {b} cross the {place}, and then {s} threw a {object} to",
    "office": "Every morning {a} and {b} share a table at the {place}, and {s} reads the news to",
    "holiday": "For the holiday {a} and {b} decorated the {place}, and {s} made a {object} for",
    "guard": "The guard at the {place} let {a} and {b} in, and {s} quickly gave the {object} to",
    "bus": "While waiting for the bus near the {place}, {a} and {b} talked, and {s} sold a {object} to",
    "question": "In the {place}, {a} and {b} kept very quiet. Then {s} whispered something to",
    "email": "After {a} and {b} moved away from the {place}, {s} wrote an email to",
    "team": "As a team, {a} and {b} run the {place}, so {s} often brings a {object} to",
    "dog": "A dog followed {a} and {b} to the {place}. Laughing, {s} tossed a {object} to",
    "meeting": "The meeting with {a} and {b} at the {place} was short, and {s} handed a {object} to",
    "invited": "We invited {a} and {b} to the {place}, and as a thank-you {s} brought a {object} to",
    "saturday": "On Saturday {a} and {b} drove to the {place}, where {s} bought a {object} for",
    "cousins": "The cousins {a} and {b} grew up near the {place}. For years {s} sent a {object} to",
    "argued": "{a} and {b} argued in the {place} until {s} offered a {object} to",
    "surprise": "It was no surprise that {a} and {b} opened the {place}, or that {s} sold a {object} to",
    "photograph": "The photograph shows {a} and {b} at the {place}, while {s} is passing a {object} to",
    "believe": "I believe {a} and {b} came to the {place} together, but {s} only gave a {object} to",
    "lights": "When the lights went out, {a} and {b} stayed in the {place} and {s} handed a {object} to",
    "contest": "After {a} and {b} won the contest at the {place}, {s} showed the {object} to",
    "noticed": "Nobody noticed {a} and {b} behind the {place}, where {s} secretly gave a {object} to",
    "painted": "Having painted the {place} together, {a} and {b} took a break and {s} threw a {object} to",
    "tickets": "There were two tickets for {a} and {b} at the {place}, but {s} left the {object} with",
    "monday": "Every Monday {a} and {b} meet in the {place}, and every Monday {s} lends a {object} to",
    "hungry": "Tired and hungry, {a} and {b} reached the {place}, and {s} passed the {object} to",
    "teacher": "The teacher asked {a} and {b} to stay at the {place}. So {s} gave the {object} to",
    "secret": "Between {a} and {b} there was a secret about the {place}, and {s} told it to",
    "agreed": "At last {a} and {b} agreed to meet at the {place}, and {s} promised the {object} to",
    "summer": "All summer {a} and {b} worked in the {place}; in the fall {s} wrote a letter to",
    "doctor": "The doctor saw {a} and {b} at the {place}, and {s} explained the problem to",
    "played": "While {a} and {b} played cards in the {place}, {s} slowly pushed a {object} to",
    "moved": "When {a} and {b} moved into the {place}, {s} gave the old {object} to",
    "lunch": "Over lunch at the {place}, {a} and {b} made up, and {s} gave a new {object} to",
    "early": "Early in the day {a} and {b} opened the {place}. By noon {s} had sold a {object} to",
    "wedding": "For the wedding, {a} and {b} rented the {place}, and {s} gave a {object} to",
    "map": "Neither {a} nor {b} had been to the {place} before, so {s} showed a map to",
    "company": "The company sent {a} and {b} to the {place}, where {s} presented a {object} to",
    "children": "Like children, {a} and {b} ran around the {place}, and {s} tossed the {object} to",
    "radio": "The radio was on as {a} and {b} swept the {place}. Then {s} handed the {object} to",
    "manager": "The manager thanked {a} and {b} for their work at the {place}, and {s} offered a drink to",
    "return": "On their return from the {place}, {a} and {b} were happy, and {s} gave a small gift to",
    "usually": "Usually {a} and {b} walk home from the {place}, but today {s} lent a bicycle to",
    "door": "The door of the {place} opened, {a} and {b} came in, and {s} gave the {object} to",
    "exam": "With the exam over, {a} and {b} sat outside the {place} and {s} returned the {object} to",
    "kitchen": "The kitchen of the {place} is where {a} and {b} met, and where {s} first cooked for",
    "older": "As {a} and {b} grew older they saw less of the {place}, yet {s} still wrote to",
    "phone": "By the time {a} and {b} got to the {place} it was dark, and {s} gave the phone to",
    "nobody": "Nobody but {a} and {b} was in the {place} when {s} threw the {object} to",
    "newspaper": "The newspaper wrote that {a} and {b} bought the {place}, and that {s} sold it to",
    "river": "Down by the river, past the {place}, {a} and {b} stopped and {s} offered a {object} to",
    "class": "In class {a} and {b} drew the {place}. When it was finished {s} showed a drawing to",
    "coffee": "Over coffee in the {place}, {a} and {b} talked for hours, and {s} told a joke to",
    "hospital": "When {a} and {b} were both ill, a nurse from the {place} came, and {s} gave the {object} to",
    "boat": "The boat carried {a} and {b} past the {place}, and on the way {s} handed a {object} to",
    "market": "Selling fruit beside the {place}, {a} and {b} were busy all day, but {s} gave an apple to",
    "brothers": "Some people think {a} and {b} own the {place}, since {s} always leaves the {object} to",
    "game": "Halfway through the game at the {place}, {a} and {b} changed seats and {s} passed a drink to",
}

NAMES = split_words(
    "Aaron Adam Alan Alex Alice Amy Andrew Anna Anthony Arthur Ben Brian Carl Charles Chris Christine Dan "
    "Daniel David Edward Emily Eric Frank George Grace Helen Henry Jack Jacob James Jane Jason Jennifer "
    "Jessica Jim Joe John Jonathan Joseph Julia Karen Kate Kevin Laura Lisa Louis Lucy Maria Mark Martin Mary "
    "Matthew Michael Michelle Nancy Oliver Patrick Paul Peter Rachel Richard Robert Rose Ryan Sam Samuel Sarah "
    "Scott Simon Sophie Stephen Steven Susan Thomas Tim Tom Victoria Walter William"
)
PLACES = split_words("store park school office garden library station market beach restaurant hospital museum")
OBJECTS = split_words("book drink ring letter computer bag key phone ball cup map coin")

ORDERS = Option("order", "both", "ABBA, BABA, or both in turn", choices=("both", "abba", "baba"))


def stream(options: Mapping[str, int | str], rng: random.Random, is_single: IsSingle) -> Iterator[Example]:
    """Endless examples, the frames and orders in turn. Names that are not one token are left out of the draw."""
    names = usable_words("ioi", "names", NAMES, is_single, least=3)
    orders = ("abba", "baba") if options["order"] == "both" else (str(options["order"]),)
    while True:
        for order in orders:
            for template, frame in FRAMES.items():
                yield fill(template, frame, order, names, rng)


def fill(template: str, frame: str, order: str, names: Sequence[str], rng: random.Random) -> Example:
    """One example of a frame. In order ABBA the indirect object is named first."""
    recipient, subject, third = rng.sample(names, 3)
    first, second = (recipient, subject) if order == "abba" else (subject, recipient)
    words = {"a": first, "b": second, "place": rng.choice(PLACES), "object": rng.choice(OBJECTS)}
    return Example(
        clean=frame.format(s=subject, **words),
        counterfactual=frame.format(s=third, **words),
        answer=f" {recipient}",
        distractor=f" {subject}",
        template=template,
    )


TASK = TaskKind("ioi", "indirect object identification", stream, tuple(FRAMES), (COUNT, SEED, ORDERS))
