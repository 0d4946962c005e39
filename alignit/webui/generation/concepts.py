"""From a name in a prompt to a concept with its class word, or to a note that says why there is none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alignit.algorithm.controls import FILLER, Controls, ControlsError
from alignit.concepts.weight_change import Change
from alignit.prompt.class_words import ClassWordError, ClassWords, remembered
from alignit.prompt.suggestions import class_word_after
from alignit.prompt.syntax import (
    Mark,
    class_word_error,
    is_words,
    join_class_words,
    marks_at,
    name_key,
    name_pattern,
    spaced,
    split,
)
from alignit.webui.generation.encoding import Concept, single_token
from alignit.webui.host import host
from alignit.webui.networks.catversion import Adapter, find_adapter
from alignit.webui.networks.deltas import Delta, find_token
from alignit.webui.networks.embeddings import (
    embedding_in_tokens,
    embeddings_in,
    find_embedding,
    is_for_another_model,
    nearest_class_words,
    passed_over_in,
)
from alignit.webui.networks.networks import Active
from alignit.webui.settings import use_suggestions

CHUNK_LENGTH = 75  # tokens of text that the host puts into a chunk


@dataclass(frozen=True)
class Found:
    """A concept of the prompt, and where its class word comes from.

    Attributes:
        concept: The concept.
        source: ``prompt``, ``panel``, ``remembered``, ``suggested``, or ``file`` for the name of its file or folder.
        options: The options that were given for this concept, as written.
    """

    concept: Concept
    source: str
    options: str = ""


class Concepts:
    """Resolves the concepts of one generation: the `Lookup` of its `Encoding`.

    A class word in the prompt, ``<my-cat=cat>``, comes before one in the panel, that before one remembered with the
    embedding, and that before a suggested one, which the settings have to allow.

    Attributes:
        networks: The Custom Diffusion and CatVersion concepts that are active in the prompt at hand.
        found: The concepts in use, by name.
        refused: Those that stay as they are in the prompt, by name, with the class word that cannot be used, or none.
        suggestions: For each concept that has none, the nearest nouns, nearest first.
        notes: What was said, by the concept that it is about.
    """

    def __init__(self, words: ClassWords, controls: Controls, say: Callable[[str], None]) -> None:
        """Take what the panel says.

        Args:
            words: Its class words.
            controls: How concepts are put in that have no options of their own.
            say: Tells the user what cannot be done.
        """
        self.networks = Active()
        self.found: dict[str, Found] = {}
        self.refused: dict[str, Found] = {}
        self.suggestions: dict[str, list[str]] = {}
        self.notes: dict[str, list[str]] = {}
        self._panel = words
        self._controls = controls
        self._in_prompt: dict[str, str] = {}
        self._options: dict[str, str] = {}
        self._texts: list[str] = []
        self._resolved: dict[tuple[Any, str | None, Change | None], Concept | None] = {}
        self._kept: dict[tuple[str | None, ...], str | None] = {}
        self._say = say

    def read(self, text: str) -> None:
        """Take the class words that a prompt text gives, for all mentions of their concepts in this generation."""
        self._texts.append(text)
        for part in split(text):
            # One that cannot be used is told of where its mark is resolved, and says nothing about other mentions. The
            # prompt can also still hold prompt editing here, as in <my-cat=[cat:dog:0.5]>.
            if not isinstance(part, Mark):
                continue
            if part.class_word is not None and class_word_error(part.class_word) is None:
                self._in_prompt.setdefault(name_key(part.name), part.class_word)
            if part.options and self._options.setdefault(name_key(part.name), part.options) != part.options:
                self._say_of(
                    part.name,
                    f"'{part.name}' has two sets of options in the prompt, and the first counts for all its mentions.",
                )
        for name in passed_over_in(text):
            if is_for_another_model(name):
                self._say_unfit(name)

    def split(self, text: str) -> Iterator[str | Mark]:
        """See `alignit.webui.generation.encoding.Lookup`."""
        for part in join_class_words(split(text), self._class_word_after):
            if isinstance(part, Mark):
                yield part
            else:
                yield from self._split_plain(part)

    def _split_plain(self, text: str) -> Iterator[str | Mark]:
        """Find what the host does not: embeddings that it passes over, and class words that are concepts themselves."""
        names = {name: name for name in passed_over_in(text) if find_embedding(name)}
        words = self._adapters_by_word()
        if words:
            # An embedding's name can hold a class word: my cat.pt.
            names |= {name: "" for name in embeddings_in(text) if name.lower() not in words}
            names |= {word: adapter.name for word, adapter in words.items()}
        yield from marks_at(text, names)

    def _adapters_by_word(self) -> dict[str, Adapter]:
        found: dict[str, Adapter] = {}
        for adapter in self.networks.adapters:
            word = self._word_of_adapter(adapter)[0]
            if word is None:
                continue
            other = found.get(spaced(word))
            if other is not None and any(name_pattern(word).search(text) for text in self._texts):
                self._say(
                    f"'{word}' is the class word of both '{other.name}' and '{adapter.name}', and is taken for the "
                    f"latter. Write <{other.name}={word}> where the other one stands."
                )
            found[spaced(word)] = adapter
        return found

    def mark(self, mark: Mark) -> Any | None:
        """See `alignit.webui.generation.encoding.Lookup`."""
        adapter = find_adapter(self.networks.adapters, mark.name)
        if adapter is not None:
            return self._resolve_adapter(adapter, mark.class_word)
        delta = self._delta_of(mark.name)
        embedding = delta[1] if delta else find_embedding(mark.name)
        if mark.class_word is None:
            return None if embedding is None else self.embedding(embedding)
        if embedding is None:
            return self._words(mark) if is_words(mark.name) else self._without_embedding(mark)
        concept = self._resolve(embedding, mark.class_word)
        if concept is None:
            return embedding
        follows = mark.trailing and concept.embedding is not None
        return replace(concept, words=concept.class_word) if follows else concept

    def embedding(self, embedding: Any) -> Concept | None:
        """See `alignit.webui.generation.encoding.Lookup`."""
        return self._resolve(embedding, self._in_prompt.get(name_key(embedding.name)))

    def _delta_of(self, name: str) -> tuple[Delta, Any] | None:
        return find_token(self.networks.deltas, name)

    def _class_word_after(self, name: str, text: str) -> str | None:
        delta = self._delta_of(name)
        if delta is None:
            return None
        return class_word_after(text, [self._panel.get(name), self._remembered(*self._files(delta[1]))])

    def _words(self, mark: Mark) -> Concept | None:
        """Resolve "<cat=dog>": the keys and values of words at other words (the paper's section 3.3)."""
        if is_for_another_model(mark.name):
            return self._without_embedding(mark)
        if not self._is_good(mark.name, mark.class_word or ""):
            return None
        tokens = host().model().encoders[0].tokens(mark.name)
        if len(tokens) > CHUNK_LENGTH:
            self._say(f"'{mark.name[:40]}...' has {len(tokens)} tokens, and a prompt chunk holds {CHUNK_LENGTH}.")
            return None
        if len(tokens) > len(mark.name.split()):
            # Not what the text encoder knows as words: perhaps an embedding whose name is misspelt.
            self._say_of(mark.name, f"There is no embedding '{mark.name}', so its letters are read as words.")
        return self._use(Concept(mark.name, mark.class_word or "", None, words=mark.name), "prompt")

    def _use(self, concept: Concept, source: str) -> Concept:
        """Note a concept that is in use, with its controls."""
        name, given = concept.name, []
        controls = self._controls
        for where, options in (
            ("class words", self._panel.options(name)),
            ("prompt", self._options.get(name_key(name), "")),
        ):
            try:
                controls = controls.with_options(options)
                given += [options] if options and options not in given else []
            except ControlsError as error:
                self._say_of(name, f"Of the options of '{name}' in the {where}, {error}. They are not used.")
        if single_token(host().model().encoders[0], controls.filler) is None:
            self._say_of(
                name, f"The filler '{controls.filler}' of '{name}' is not one token: '{FILLER}' is used instead."
            )
            controls = replace(controls, filler=FILLER)
        concept = replace(concept, controls=controls)
        self.found[name] = Found(concept, source, "; ".join(given))
        return concept

    def _without_embedding(self, mark: Mark) -> Concept | None:
        if is_for_another_model(mark.name):
            self._say_unfit(mark.name)
        else:
            self._say(f"There is no embedding '{mark.name}' (written {mark.text}): check its name and folder.")
        if not self._is_good(mark.name, mark.class_word or ""):
            return None
        self._say(f"'{mark.class_word}' alone stands for '{mark.name}' in the picture.")
        return Concept(mark.name, mark.class_word or "", None)

    def _resolve(self, embedding: Any, in_prompt: str | None) -> Concept | None:
        delta = self._delta_of(embedding.name)
        # By the object, not by its name: hires fix and a refiner can load a model for which that is another embedding.
        key = embedding, in_prompt, delta[0].change if delta else None
        if key not in self._resolved:
            self._resolved[key] = self._resolve_anew(*key)
        return self._resolved[key]

    def _resolve_anew(self, embedding: Any, in_prompt: str | None, change: Change | None) -> Concept | None:
        word, source = self._class_word(embedding, in_prompt)
        concept = Concept(embedding.name, word or "", embedding, change, filename=self._files(embedding)[0])
        if word is None or not self._is_good(embedding.name, word):
            self.refused[embedding.name] = Found(concept, source)
            return None
        if int(embedding.vectors) > CHUNK_LENGTH:
            self.refused[embedding.name] = Found(concept, source)
            self._say_of(
                embedding.name,
                f"'{embedding.name}' has {embedding.vectors} vectors, and a prompt chunk holds {CHUNK_LENGTH}: "
                f"'{word}' alone stands for it in the picture.",
            )
            return Concept(embedding.name, word, None)
        return self._use(concept, source)

    def _resolve_adapter(self, adapter: Adapter, in_mark: str | None) -> Concept | None:
        word, source = (in_mark, "prompt") if in_mark is not None else self._word_of_adapter(adapter)
        concept = _of_adapter(adapter, word)
        if word is None or not self._is_good(adapter.name, word):
            self.refused[adapter.name] = Found(concept, source)
            return None
        return self._use(concept, source)

    def _word_of_adapter(self, adapter: Adapter) -> tuple[str | None, str]:
        word, source = self._given(adapter.name, self._in_prompt.get(name_key(adapter.name)), adapter.filename)
        if word is not None or not adapter.class_words:
            return word, source
        used = (word for word in adapter.class_words if any(name_pattern(word).search(text) for text in self._texts))
        return next(used, adapter.class_words[0]), "file"

    def unused(self, networks: Active, used: Collection[str]) -> list[str]:
        """Say which networks have no concept in the prompt, and why; note their concepts as refused.

        Args:
            networks: Those of the prompt.
            used: The concepts that are put in.
        """
        notes = []
        for adapter in networks.adapters:
            if adapter.name not in used:
                word, source = self._word_of_adapter(adapter)
                self.refused.setdefault(adapter.name, Found(_of_adapter(adapter, word), source))
                notes.append(
                    f"<catversion:{adapter.name}> is in the prompt, but its class word "
                    f"{f'{word!r} is not' if word else 'is not known'}: write <{adapter.name}=cat> where the concept "
                    "stands, with the class word that it was trained for. Nothing of it is used."
                )
                self.notes.setdefault(adapter.name, []).append(notes[-1])
        for delta in networks.deltas:
            names = [embedding.name for embedding in delta.embeddings]
            if not any(name in used and self.found[name].concept.change is not None for name in names):
                notes.append(
                    f"<delta:{delta.name}> is in the prompt, but no token of it with a class word is: write "
                    f"{names[0] if names else 'the name of its embedding'} and a class word. Nothing of it is used."
                )
        return notes

    def _class_word(self, embedding: Any, in_prompt: str | None) -> tuple[str | None, str]:
        word, source = self._given(embedding.name, in_prompt, *self._files(embedding))
        if word is not None:
            return word, source
        nearest = nearest_class_words(host().model(), embedding)
        if use_suggestions() and nearest:
            return nearest[0], "suggested"
        self.suggestions[embedding.name] = nearest
        self._say_of(embedding.name, no_class_word(embedding.name, nearest))
        return None, ""

    def _files(self, embedding: Any) -> list[str | None]:
        """Return the files beside which a class word for an embedding may be remembered, the first of all first."""
        delta = self._delta_of(embedding.name)
        return [*([delta[0].filename] if delta else []), embedding.filename]

    def _given(self, name: str, in_prompt: str | None, *filenames: str | None) -> tuple[str | None, str]:
        """Return the class word that the user gave a concept, and where; None where there is none."""
        if in_prompt is not None:
            return in_prompt, "prompt"
        in_panel = self._panel.get(name)
        if in_panel is not None:
            return in_panel, "panel"
        kept = self._remembered(*filenames)
        return kept, "remembered" if kept is not None else ""

    def _remembered(self, *filenames: str | None) -> str | None:
        # Asked for at each text and each mention, which is no reason to read the files again.
        if filenames not in self._kept:
            self._kept[filenames] = self._read_remembered(filenames)
        return self._kept[filenames]

    def _read_remembered(self, filenames: Sequence[str | None]) -> str | None:
        try:
            return next((word for filename in filenames if filename and (word := remembered(filename))), None)
        except ClassWordError as error:
            self._say(f"{error}.")
            return None

    def _is_good(self, name: str, word: str) -> bool:
        error = class_word_error(word)
        if error is None:
            tokens = host().model().encoders[0].tokens(word)
            itself = embedding_in_tokens(tokens)
            if itself is not None:
                error = f"contains the embedding '{itself.name}', and must be an ordinary word"
            elif not tokens:
                error = "has no letters that the text encoder knows"
            elif len(tokens) > CHUNK_LENGTH:
                error = f"has {len(tokens)} tokens, and a prompt chunk holds {CHUNK_LENGTH}"
        if error:
            self._say_of(name, f"The class word '{word}' of '{name}' {error}. Write one such as <{name}=cat>.")
        return error is None

    def _say_of(self, name: str, note: str) -> None:
        if note not in self.notes.setdefault(name, []):
            self.notes[name].append(note)
        self._say(note)

    def _say_unfit(self, name: str) -> None:
        self._say(f"The embedding '{name}' was made for another kind of model than the loaded one, and is not used.")


def no_class_word(name: str, nearest: Sequence[str]) -> str:
    """Say that a concept has no class word, and what the nearest nouns to it are."""
    return (
        f"'{name}' has no class word, so it is used as a plain embedding. Write <{name}=cat> in the prompt, or set one "
        f"in the panel. Nearest to it: {', '.join(nearest)}."
    )


def _of_adapter(adapter: Adapter, word: str | None) -> Concept:
    word = word or ""
    return Concept(adapter.name, word, None, encoder_change=adapter.prefixes, words=word, filename=adapter.filename)


class PlainDeltas:
    """The `Lookup` where AlignIT is off: tokens of the active deltas are plain embeddings, and nothing is a concept."""

    def __init__(self, deltas: Sequence[Delta]) -> None:
        self._deltas = deltas

    def split(self, text: str) -> Iterator[str | Mark]:
        """See `alignit.webui.generation.encoding.Lookup`."""
        return split(text)

    def mark(self, mark: Mark) -> Any | None:
        """See `alignit.webui.generation.encoding.Lookup`."""
        token = find_token(self._deltas, mark.name)
        return None if token is None else token[1]

    def embedding(self, _embedding: Any) -> Concept | None:
        """See `alignit.webui.generation.encoding.Lookup`."""
        return None
