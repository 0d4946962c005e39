"""CatVersion in the prompt: ``<catversion:NAME>``, with the adapters in ``models/catversion``.

The concept has no token of its own: it is its class word, where that stands in the text. Where AlignIT is off it does
what CatVersion itself does: the changed text encoder for the whole of a positive prompt, and not for a negative one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alignit.concepts.concept import ConceptFileError, EncoderPrefixes
from alignit.concepts.formats.catversion import adapter_name
from alignit.prompt.syntax import name_key
from alignit.webui.networks.library import Library, load_fitting
from alignit.webui.settings import catversion_folder

NETWORK = "catversion"
ADAPTERS = Library(catversion_folder, lambda path: (adapter_name(path),) if path.suffix.lower() == ".bin" else ())


@dataclass(frozen=True, eq=False)
class Adapter:
    """A CatVersion concept that is active in a prompt.

    Attributes:
        name: Its name in ``<catversion:NAME>``.
        prefixes: Its change of the text encoder.
        class_words: Class words that its file's place suggests, the likeliest first: "colorful teapot", "teapot".
        filename: Its file.
    """

    name: str
    prefixes: EncoderPrefixes
    class_words: tuple[str, ...]
    filename: str


def find_adapter(adapters: Sequence[Adapter], name: str) -> Adapter | None:
    """Return the adapter of this name, or None."""
    return next((adapter for adapter in adapters if name_key(adapter.name) == name_key(name)), None)


def load_adapter(name: str, arguments: Sequence[str], say: Callable[[str], None]) -> Adapter:
    """Return the adapter of ``<catversion:NAME>``.

    Args:
        name: Its name.
        arguments: What follows the name.
        say: Tells the user what is doubtful about it.

    Raises:
        ConceptFileError: It cannot be used, or not with the loaded model.
    """
    path = ADAPTERS.find(name)
    if arguments and arguments[0].strip() not in ("", "1", "1.0"):
        raise ConceptFileError(
            path,
            f"has the strength '{arguments[0]}' in the prompt, and CatVersion knows none",
            f"Write <{NETWORK}:{name}>, and set AlignIT's strength in the panel",
        )
    concept = load_fitting(path, say)
    if concept.prefixes is None:
        raise ConceptFileError(path, "changes no text encoder", "Put it into the folder of its own kind")
    return Adapter(name, concept.prefixes, concept.likely_class_words, str(path))
