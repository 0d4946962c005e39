"""What can be in the way of a concept in a prompt: each problem with its cause and what to do about it.

A host tells its user: a WebUI by notes, a library by errors and warnings. It may have words of its own for a kind of
problem, to say what it does about it, or what else it can be mended with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from alignit.prompt.syntax import in_prompt


@dataclass(frozen=True)
class Problem:
    """Something in the way.

    Attributes:
        name: The name that it is about, as it is written or as its concept is called.
        of_concept: Whether it belongs to that concept; else to the prompt.
    """

    name: str
    of_concept: ClassVar[bool] = False
    _cause: ClassVar[str]
    _mend: ClassVar[str]

    @property
    def cause(self) -> str:
        """What is in the way: a sentence without its full stop."""
        return self._cause.format(**vars(self))

    @property
    def mend(self) -> str:
        """What to do about it, as an order in the middle of a sentence."""
        return self._mend.format(**vars(self), written=self.written)

    @property
    def written(self) -> str:
        """How the name is written in a prompt."""
        return in_prompt(self.name)

    def __str__(self) -> str:
        return f"{self.cause}: {self.mend}"


@dataclass(frozen=True)
class NoClassWord(Problem):
    """A concept has no class word from any source.

    Attributes:
        nearest: The nouns that are nearest to it, nearest first.
        has_token: Whether it has vectors, which can be used as they are.
    """

    nearest: tuple[str, ...] = ()
    has_token: bool = True
    of_concept = True
    _cause = "'{name}' has no class word"
    _mend = "write <{written}=cat> in the prompt"


@dataclass(frozen=True)
class BadClassWord(Problem):
    """A class word cannot be used.

    Attributes:
        word: The class word.
        error: What is wrong with it: a sentence without its subject.
    """

    word: str
    error: str
    of_concept = True
    _cause = "The class word '{word}' of '{name}' {error}"
    _mend = "write one such as <{written}=cat>"


@dataclass(frozen=True)
class NoSuchConcept(Problem):
    """A mark names a concept that is not at hand, and cannot be ordinary words.

    Attributes:
        text: The mark as typed.
    """

    text: str
    _cause = "There is no concept '{name}' (written {text})"
    _mend = "check its name"


@dataclass(frozen=True)
class OpenBrackets(Problem):
    """The name in a mark has brackets, which mean emphasis to the host: it reads no mark there.

    Attributes:
        text: The mark as typed.
    """

    text: str
    of_concept = True
    _cause = "'{name}' has brackets (written {text}), which mean emphasis in a prompt"
    _mend = "write <{written}=cat> in the prompt"


@dataclass(frozen=True)
class ListNamesNothing(Problem):
    """A list of class words names concepts, and none of them is in the prompt, which has others without a class word.

    Attributes:
        others: What the list names.
    """

    others: tuple[str, ...]
    _cause = "The class words name {quoted}, which is not in the prompt, and not '{name}', which is"
    _mend = "write one entry for each concept, with a comma between them, my-cat=cat, my-toy=toy"

    @property
    def quoted(self) -> str:
        """What the list names, to read."""
        return " and ".join(f"'{other}'" for other in self.others[:3])

    @property
    def cause(self) -> str:
        """See `Problem`."""
        return self._cause.format(name=self.name, quoted=self.quoted)


@dataclass(frozen=True)
class ForAnotherModel(Problem):
    """A concept is there, and does not fit the model."""

    _cause = "'{name}' was made for another kind of model than the loaded one, and is not used"
    _mend = "load a model of its kind"


@dataclass(frozen=True)
class ClassWordAlone(Problem):
    """Nothing of a concept can be put in: its class word stands for it.

    Attributes:
        word: The class word.
    """

    word: str
    _cause = "'{word}' alone stands for '{name}' in the picture"
    _mend = "check its name"


@dataclass(frozen=True)
class SharedClassWord(Problem):
    """A class word in the prompt is that of two concepts without a token of their own.

    Attributes:
        other: The second of them, for which the word is taken.
        word: The class word.
    """

    other: str
    word: str
    _cause = "'{word}' is the class word of both '{name}' and '{other}'"
    _mend = "write <{written}={word}> or <{other}={word}>, and give the other one another word"


@dataclass(frozen=True)
class TwoSetsOfOptions(Problem):
    """Mentions of a concept have options that differ: the first ones count."""

    of_concept = True
    _cause = "'{name}' has two sets of options"
    _mend = "write the same at all of its mentions"


@dataclass(frozen=True)
class NotRemembered(Problem):
    """What is remembered beside a concept's file cannot be read.

    Attributes:
        file_problem: What is wrong with the file beside it.
        file_mend: What to do about that.
    """

    file_problem: str
    file_mend: str
    _cause = "{file_problem}"
    _mend = "{file_mend}"


@dataclass(frozen=True)
class TooManyVectors(Problem):
    """A concept has more vectors than a chunk of the prompt has tokens: its class word stands for it.

    Attributes:
        vectors: How many it has.
        capacity: How many fit.
        word: The class word.
    """

    vectors: int
    capacity: int
    word: str
    of_concept = True
    _cause = "'{name}' has {vectors} vectors, and a prompt chunk holds {capacity}"
    _mend = "'{word}' alone stands for it in the picture"


@dataclass(frozen=True)
class TooManyTokens(Problem):
    """Words in a mark have more tokens than a chunk of the prompt.

    Attributes:
        tokens: How many they have.
        capacity: How many fit.
    """

    tokens: int
    capacity: int
    _cause = "'{name:.40}...' has {tokens} tokens, and a prompt chunk holds {capacity}"
    _mend = "use fewer words"


@dataclass(frozen=True)
class ReadAsLetters(Problem):
    """Words in a mark are not known to the text encoder as words: perhaps the misspelt name of a concept."""

    of_concept = True
    _cause = "There is no concept '{name}', so its letters are read as words"
    _mend = "check its name"
