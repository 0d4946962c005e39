"""Attention maps of a generation: recorded while it samples, drawn for the gallery, kept for the API."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from PIL import Image

from alignit.maps.pictures import sheet, thumbnail
from alignit.maps.recorder import Recorder
from alignit.maps.result import AttentionMaps, MappedText, MappedWord, newest_within
from alignit.maps.words import MAX_TOKENS, MAX_WORDS, MapChoice, bounded, names_of, words_of
from alignit.prompt.syntax import name_key
from alignit.webui.generation.encoding import Lookup, embedding_names, find_concepts
from alignit.webui.generation.notes import Notes
from alignit.webui.host import host
from alignit.webui.host.ports import Model, Step, UnsupportedEncoderError

_MAX_KEPT = 256 << 20  # bytes of maps that are kept for the API
_FONT_SIZE = 16


@dataclass(frozen=True)
class TextWords:
    """A text that is encoded, and its words.

    Attributes:
        text: The text.
        words: Those of which maps are wanted.
        all_words: The texts of all.
    """

    text: str
    words: tuple[MappedWord, ...]
    all_words: tuple[str, ...]


Schedules = list[list[list[tuple[int, TextWords]]]]
"""For each picture of a batch, for each part of its prompt, the texts with the last step of each."""


@dataclass(frozen=True)
class KeptPicture:
    """A picture of the last generation, and its maps."""

    prompt: str
    seed: int
    maps: AttentionMaps
    infotext: str = ""


class Kept:
    """What is kept for the API.

    Attributes:
        pictures: The pictures of the last generation with maps, by their number in it; bounded in memory. The API reads
            it while another generation runs, so that it is replaced, and never changed.
    """

    pictures: Mapping[int, KeptPicture] = MappingProxyType({})


KEPT = Kept()


def words_in(
    model: Model, lookup: Lookup, text: str, wanted: Sequence[str], alone: Mapping[str, str] | None = None
) -> TextWords:
    """Find words in a text as it is encoded.

    Args:
        model: The host's model.
        lookup: Finds the concepts.
        text: The text.
        wanted: The words, or none for each of the text.
        alone: The class words of concepts of which nothing is put in, by the concepts' names.

    Raises:
        UnsupportedEncoderError: The model's text encoders cannot be used.
    """
    if host().options.old_emphasis:
        raise UnsupportedEncoderError("the setting 'Use old emphasis implementation' is on; turn it off for them")
    chunks = find_concepts(model, lookup, text)
    names = [names_of(chunk, embedding_names(chunk.chunk), alone or {}) for chunk in chunks]
    vocabulary = model.encoders[0]
    every = words_of(chunks, names, vocabulary)
    words = words_of(chunks, names, vocabulary, wanted) if wanted else every
    return TextWords(text, tuple(words), tuple(word.text for word in every))


class MapRecording:
    """Records the attention maps of a generation, over all of its jobs."""

    def __init__(self, p: Any, choice: MapChoice) -> None:
        """Begin for a processing object, until `forget`."""
        self._p = p
        self._choice = choice
        self._say = Notes(p).say
        self._recorder = Recorder(choice.layers, host().sampling.rows_of_call)
        self._off = False
        self._began = False
        self._steps = 0
        self._texts: dict[int, list[list[list[tuple[int, MappedText]]]]] = {}
        self._present: set[str] = set()
        self._all_words: dict[str, None] = {}
        self._pictures: dict[int, KeptPicture] = {}
        self._sheets: dict[int, Image.Image] = {}
        self._drawn: list[int] = []
        if script_runs(p):
            p.comment(
                "AlignIT: a script makes the pictures, so that there are no sheets with attention maps among them."
            )

    def read(
        self, prompts: Any, steps: int, hires_steps: int | None, words: Callable[[str, Sequence[str]], TextWords]
    ) -> Schedules | None:
        """Find the words of a batch's prompts, as the host takes these apart; None where that cannot be done.

        Args:
            prompts: The prompts.
            steps: How many steps the host counts.
            hires_steps: How many it counts for hires fix, in that pass.
            words: Finds words in a text: see `words_in`.
        """
        if self._off:
            return None
        try:
            of_pictures, flat = host().prompts.parts(prompts)
            schedules = host().prompts.schedules(flat, steps, hires_steps)
            known: dict[str, TextWords] = {}
            for text in (text for schedule in schedules for _, text in schedule):
                if text not in known:
                    known[text] = words(text, self._choice.words)
            by_part = [[(end, known[text]) for end, text in schedule] for schedule in schedules]
            return [[by_part[index] for index, _weight in parts] for parts in of_pictures]
        except UnsupportedEncoderError as error:
            self._give_up(f"{error}.")
        except Exception:
            self._fail("reading the prompt")
        return None

    def begin_pass(self) -> None:
        """A sampling pass begins: with hires fix the second one's maps take the place of the first one's."""
        self._recorder.forget()
        self._texts.clear()
        self._present.clear()
        self._all_words.clear()
        self._steps = 0

    def before_step(self, schedules: Schedules | None, step: Step) -> None:
        """A step begins, after all hooks that change keys were set.

        Args:
            schedules: What `read` returned for the conditioning that is used; None where it was not read.
            step: The step.
        """
        if self._off:
            return
        try:
            self._begin_step(schedules, step)
        except Exception:
            self._fail("following the sampling")

    def _begin_step(self, schedules: Schedules | None, step: Step) -> None:
        if not self._began:
            self._began = True
            KEPT.pictures = {}
        if not self._choice.steps.is_active(step.fraction):
            self._recorder.release()
            return
        rows = [] if schedules is None else self._rows(schedules, step.number)
        if len(rows) != len(step.conditioning):
            self._give_up(
                "an error, or another extension, changed the prompt's conditioning, whose words are not known then."
            )
            return
        unet: Any = host().model().unet
        self._recorder.watch(unet, len(unet.channel_mult))
        self._recorder.begin_step(rows, step.size, step.conditioning.shape[1])
        self._steps += 1

    def _rows(self, schedules: Schedules, step: int) -> list[MappedText]:
        if id(schedules) not in self._texts:
            self._texts[id(schedules)] = self._mapped(schedules)
        # The host's own rule: the first text that has not ended, and the first of all after the end.
        return [
            next((text for end, text in part if step <= end), part[0][1])
            for parts in self._texts[id(schedules)]
            for part in parts
        ]

    def _mapped(self, schedules: Schedules) -> list[list[list[tuple[int, MappedText]]]]:
        result = []
        for index, parts in enumerate(schedules):
            picture = self._p.iteration * self._p.batch_size + index
            known: dict[tuple[int, str], MappedText] = {}
            used_words = used_tokens = 0
            for number, part in enumerate(parts):
                for _, item in part:
                    self._all_words |= dict.fromkeys(item.all_words)
                    if (number, item.text) in known:
                        continue
                    words = bounded(item.words, used_words, used_tokens)
                    if len(words) < len(item.words):
                        self._p.comment(
                            f"AlignIT: attention maps are made of {MAX_WORDS} words and {MAX_TOKENS} tokens at most: "
                            f"not of '{item.words[len(words)].text}' and what follows. Name the words to map."
                        )
                    used_words += len(words)
                    used_tokens += sum(len(word.tokens) for word in words)
                    self._present |= {name_key(word.text) for word in item.words}
                    known[number, item.text] = MappedText(picture, number, item.text, words)
            result.append(
                [[(end, known[number, item.text]) for end, item in part] for number, part in enumerate(parts)]
            )
        return result

    def end_sampling(self) -> None:
        """Sampling of a batch is over: keep its maps."""
        watched, unread, error = self._recorder.watched, self._recorder.unread, self._recorder.error
        self._recorder.release()
        if self._off:
            return
        if error is not None:
            host().life.report(f"AlignIT: error while recording attention maps: {error}", traceback=False)
            self._give_up(f"an error while recording, {error}.")
            return
        maps = self._recorder.take()
        self._say_missing()
        if not host().sampling.interrupted:
            if not self._steps:
                steps = self._choice.steps
                self._say(f"No attention maps: no step of the sampling is in steps {steps.start:g}-{steps.end:g}.")
            elif not watched:
                self._say("No attention maps: this model has no cross-attention in the layers that were asked for.")
            elif self._present and not maps:
                self._say(
                    "No attention maps: something else, such as another extension, makes the picture without the "
                    "model's cross-attention layers, or with another size in them."
                )
            elif unread:
                self._say(
                    f"The attention maps are without {len(unread)} of {watched} layers, to which something else, such "
                    "as another extension, gave another size."
                )
        for picture, of_picture in maps.items():
            self._pictures[picture] = KeptPicture(
                _item(self._p.all_prompts, picture, ""), int(_item(self._p.all_seeds, picture, -1)), of_picture
            )

    def _say_missing(self) -> None:
        missing = [word for word in self._choice.words if name_key(word) not in self._present]
        if missing and self._texts:
            self._say(
                f"No attention map of {', '.join(map(repr, missing))}, which is not in the prompt: its words are "
                f"{', '.join(list(self._all_words)[:MAX_WORDS])}."
            )

    def draw(self, picture: Image.Image) -> None:
        """Draw the sheet of a picture that is done, and keep memory within its bounds."""
        number = self._p.iteration * self._p.batch_size + self._p.batch_index
        self._drawn.append(number)
        kept = self._pictures.get(number)
        if kept is None or self._off:
            return
        try:
            if not script_runs(self._p):
                small = thumbnail(picture)
                cells = [(small, "the picture")]
                for word in kept.maps.words:
                    heat_map = kept.maps.heat_map(word)
                    cells.append((heat_map.overlay(small), f"{word}\nup to {heat_map.peak:.2%}"))
                self._sheets[number] = sheet(cells, host().pictures.font(_FONT_SIZE))
            within = newest_within({n: item.maps for n, item in self._pictures.items()}, _MAX_KEPT)
            self._pictures = {n: self._pictures[n] for n in within}
        except Exception:
            self._fail("drawing them")

    def finish(self, processed: Any) -> None:
        """Put the sheets behind the generation's pictures, and keep the maps for the API.

        Args:
            processed: The host's `Processed`.
        """
        if not processed.images:
            return  # ADetailer has the scripts end in mid-batch, to begin again
        first = processed.index_of_first_image
        texts = {number: _item(processed.infotexts, first + at, "") for at, number in enumerate(self._drawn)}
        if self._began:
            KEPT.pictures = {n: replace(kept, infotext=texts.get(n, "")) for n, kept in self._pictures.items()}
        if self._sheets:
            # The host itself has no text for masks, which it can put behind each picture.
            processed.infotexts += [processed.info] * (len(processed.images) - len(processed.infotexts))
        for number, picture in self._sheets.items():
            if host().options.get("enable_pnginfo", True):
                picture.info["parameters"] = texts[number]
            processed.images.append(picture)
            processed.infotexts.append(texts[number])
        self._sheets = {}

    def release(self) -> None:
        """Remove the hooks."""
        self._recorder.release()

    def forget(self) -> None:
        """Remove the hooks, and let go of what was recorded."""
        self._recorder.release()
        self._recorder.forget()
        self._texts.clear()
        self._pictures = {}
        self._sheets = {}

    def _give_up(self, why: str) -> None:
        self._off = True
        self.forget()
        self._say(f"No attention maps: {why}")

    def _fail(self, doing: str) -> None:
        host().life.report(f"AlignIT: error with attention maps while {doing}")
        self._give_up(f"an error while {doing}; the console has the details.")


def script_runs(p: Any) -> bool:
    """Say whether a script of the host's list runs, such as a plot: these take every picture for one of theirs."""
    arguments = getattr(p, "script_args", None)
    return bool(arguments and arguments[0])


def _item(values: Any, index: int, default: Any) -> Any:
    return values[index] if values and index < len(values) else default
