"""The words that the miniature knows, as CLIP's tokenizer numbers them.

Every one is a single token, so that neither training nor tests need a tokenizer. The text encoder is trained and kept
with the rows of these tokens alone; on export the other rows of CLIP's vocabulary are filled in.
"""

from __future__ import annotations

import re

VOCABULARY = 49408
START, END = 49406, 49407
LENGTH = 77

# fmt: off
WORDS = {
    "*": 265, ",": 267, ".": 269, "a": 320, "an": 550, "the": 518, "and": 537, "of": 539, "in": 530, "on": 525,
    "at": 536, "with": 593, "near": 2252, "beside": 13519, "wearing": 3309, "photo": 1125, "picture": 1674,
    "drawing": 3610, "image": 2867, "plain": 10709, "striped": 22192, "spotted": 4533, "checked": 10387,
    "stripes": 14239, "spots": 7670, "checks": 13737, "cat": 2368, "fish": 2759, "house": 1212, "car": 1615,
    "cup": 1937, "robot": 8797, "red": 736, "orange": 4287, "yellow": 4481, "green": 1901, "blue": 1746,
    "purple": 5496, "white": 1579, "black": 1449, "beach": 2117, "garden": 2756, "snow": 2583, "night": 930,
    "city": 1305, "ball": 1069, "tree": 2677, "box": 2063, "hat": 3801, "crown": 6902,
}
# fmt: on

ROWS = (*sorted(WORDS.values()), START, END)  # the tokens in use, in the order of the kept rows
_ROW = {token: row for row, token in enumerate(ROWS)}
_WORD = re.compile(r"<[^<>\s]+>|[a-z]+|[*,.]")


def split(text: str) -> list[str]:
    """Cut a text into words, commas, stars and `<names>`."""
    return _WORD.findall(text.lower())


def rows(text: str, names: dict[str, int] | None = None) -> list[int]:
    """Return the text's 77 tokens as numbers of kept rows: start, words, then ends up to the length.

    Args:
        text: Made of `WORDS` and of names.
        names: Rows of further tokens (of concepts) by their name.

    Raises:
        ValueError: A word is not known, or there are more than 75.
    """
    found = []
    for word in split(text):
        if names and word in names:
            found.append(names[word])
        elif word in WORDS:
            found.append(_ROW[WORDS[word]])
        else:
            raise ValueError(f"The miniature does not know the word {word!r}. It knows: {', '.join(WORDS)}")
    if len(found) > LENGTH - 2:
        raise ValueError(f"The text has {len(found)} words, {LENGTH - 2} is the most: {text!r}")
    return [_ROW[START], *found, *[_ROW[END]] * (LENGTH - 1 - len(found))]
