"""What the WebUI wing knows of a kind of concept that prompts name by ``<keyword:NAME>``: one record of it is all.

Everything that handles these concepts goes by the record: prompts, the tab with its cards and its editor, settings,
AlignIT's own API, the live list. The records stand in `alignit.webui.networks.table`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from alignit.concepts.concept import ConceptFileError, EncoderChange, Family
from alignit.concepts.formats import Outline
from alignit.concepts.layer_change import LayerChange
from alignit.concepts.weight_change import WeightChange
from alignit.webui.host import host
from alignit.webui.host.ports import Setting
from alignit.webui.networks.library import Library

Say = Callable[[str], None]


@dataclass(frozen=True)
class Folder:
    """The folder with the files of one kind of concept, which a setting can move.

    Attributes:
        option: The setting's name.
        label: Its label.
        name: The folder's name among the host's models, where the setting is empty.
        flag: An argument of the command line that names another folder then; empty: there is none.
    """

    option: str
    label: str
    name: str
    flag: str = ""

    @property
    def setting(self) -> Setting:
        """The setting."""
        return Setting(self.option, "", self.label, f"empty: models/{self.name}", folder=True)

    def path(self) -> Path:
        """Return the folder."""
        options = host().options
        flag = str(options.flag(self.flag, "")) if self.flag else ""
        text = str(options.get(self.option, "")).strip() or flag or os.path.join(options.models_folder, self.name)
        # The host's tabs compare paths as text.
        return Path(os.path.abspath(os.path.expanduser(text)))


class CardField(Enum):
    """What the editor of a card can have beside description, class word and notes."""

    TOKEN = "token"
    STRENGTH = "strength"


@dataclass(frozen=True)
class Reference:
    """A concept as a prompt names it, ``<keyword:NAME:argument>``.

    Attributes:
        name: Its name.
        path: Its file.
        arguments: What follows the name.
    """

    name: str
    path: Path
    arguments: Sequence[str]


@dataclass(frozen=True, eq=False)
class NetworkConcept:
    """A concept that is active in a prompt.

    Attributes:
        network: What it is.
        name: Its name.
        filename: Its file.
        tokens: Its tokens, in the shape of the host's embeddings. Without any it stands in prompts as words, where its
            kind does that.
        change: Its change of W_k and W_v, at the strength of the prompt.
        encoder_change: Its change of the text encoder.
        words: The words that it is, where it has no token; empty: its class word.
        class_words: Class words that the place of its file suggests, the likeliest first.
        plain_words: What its mark means where AlignIT is off; empty: its class word.
        others: Its change of the UNet's other layers.
    """

    network: Kind
    name: str
    filename: str
    tokens: tuple[Any, ...] = ()
    change: WeightChange | None = None
    encoder_change: EncoderChange | None = None
    words: str = ""
    class_words: tuple[str, ...] = ()
    plain_words: str = ""
    others: LayerChange | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of concept that prompts name by ``<keyword:NAME>``.

    Attributes:
        keyword: What stands for it in prompts.
        family: The method.
        has_tokens: Whether its concepts stand in prompts as tokens; else as words, also where AlignIT is off.
        unused: Says that a concept is in the prompt and nothing of it is used, and what to write; it is given the class
            word, or None.
        of_host: Whether the host itself uses it where AlignIT does not.
    """

    keyword: str
    family: Family
    has_tokens: bool
    unused: Callable[[NetworkConcept, str | None], str]
    of_host: bool = field(default=False, kw_only=True)

    @property
    def method(self) -> str:
        """What its method is called."""
        return self.family.value


@dataclass(frozen=True)
class Network(Kind):
    """A kind of concept that AlignIT adds to the host: with a folder, a tab whose title is the method, and cards.

    Attributes:
        folder: The folder with its files.
        file_names: Gives the names by which a file goes in prompts, the best first; none for a file of another kind.
        load: Reads a concept, and says what is doubtful about it; raises a `ConceptFileError` for one that cannot be
            used, or not with the loaded model.
        has_strength: Whether the prompt gives a strength, ``<keyword:NAME:strength>``.
        tokens_of: Gives the names of a file's tokens, as far as they are known without reading it, from its name.
        card_words: Gives what a click on a card writes behind ``<keyword:...>``, from the file's name, the token and
            the class word, each of which may be None.
        card_fields: What the editor of its cards has of its own.
    """

    folder: Folder
    file_names: Callable[[Path], tuple[str, ...]]
    load: Callable[[Reference, Say], NetworkConcept]
    has_strength: bool
    card_words: Callable[[str, str | None, str | None], list[str]]
    tokens_of: Callable[[str, Outline], tuple[str, ...]] = lambda _name, _outline: ()
    card_fields: tuple[CardField, ...] = ()

    @property
    def library(self) -> Library:
        """Its files."""
        return Library(self.folder.path, self.file_names)

    def mark(self, name: str) -> str:
        """Return what stands for a concept in prompts."""
        return f"<{self.keyword}:{name}:1>" if self.has_strength else f"<{self.keyword}:{name}>"

    def read(self, name: str, arguments: Sequence[str], say: Say) -> NetworkConcept:
        """Return the concept of ``<keyword:NAME:argument>``.

        Args:
            name: Its name.
            arguments: What follows the name.
            say: Tells the user what is doubtful about it.

        Raises:
            ConceptFileError: It cannot be used, or not with the loaded model.
        """
        return self.load(Reference(name, self.library.find(name), arguments), say)

    def strength(self, reference: Reference) -> float:
        """Return the strength that the prompt gives a concept, 1 where it gives none.

        Raises:
            ConceptFileError: It is no number.
        """
        try:
            return float(reference.arguments[0]) if reference.arguments else 1.0
        except ValueError:
            raise ConceptFileError(
                reference.path, f"has the strength '{reference.arguments[0]}' in the prompt", "Write a number"
            ) from None


def named(extra_network_data: Mapping[str, Any] | None, keyword: str) -> Iterator[list[str]]:
    """Yield what a prompt says behind a keyword, each time that it stands there: the name and the arguments."""
    for params in (extra_network_data or {}).get(keyword, []):
        yield list(params.positional) or [""]
