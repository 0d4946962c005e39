"""Attention maps of calls of a diffusers pipeline: see `alignit.maps`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from alignit.algorithm.hooks import eager
from alignit.diffusers.concepts import Parts
from alignit.diffusers.text import PipelineEncoder, Target
from alignit.maps.recorder import Recorder
from alignit.maps.result import AttentionMaps, MappedText
from alignit.maps.words import MapChoice, bounded, names_of, words_of
from alignit.prompt.resolve import Mention
from alignit.prompt.syntax import name_key


class MapWatch:
    """Records the attention maps of calls, those of the last one at a time.

    Attributes:
        maps: Those of the last call's pictures, in order; the same list at all times.
    """

    def __init__(self, choice: MapChoice, warn: Callable[[str], None]) -> None:
        """Take what to make maps of, and what tells the user what cannot be done."""
        self.maps: list[AttentionMaps] = []
        self._choice = choice
        self._warn = warn

    @contextmanager
    def recording(
        self,
        pipe: Any,
        encoder: PipelineEncoder,
        prompts: Sequence[Parts],
        alone: Sequence[str],
        fraction: Callable[[tuple[Any, ...], dict[str, Any]], float],
    ) -> Iterator[None]:
        """Record a call of a pipeline in the block, after all hooks that change keys were set; several add up.

        Args:
            pipe: The pipeline.
            encoder: Its first text encoder.
            prompts: The prompts of a call.
            alone: The concepts of which nothing is put in.
            fraction: Gives the fraction of the steps before this one, from the UNet's arguments.
        """
        self.maps.clear()
        texts = [self._text(encoder, parts, alone) for parts in prompts]
        self._tell_missing(texts)
        unet, recorder = eager(pipe.unet), Recorder(self._choice.layers)
        mapped: dict[int, MappedText] = {}

        def before(_unet: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            rows = len(args[0] if args else kwargs["sample"])
            # The negative prompts' rows come first, and the pictures of a prompt one after another.
            guided = getattr(pipe, "do_classifier_free_guidance", rows >= 2 * len(texts))
            pictures = rows // 2 if guided else rows
            each = max(1, pictures // len(texts))
            for picture in range(pictures):
                text, words = texts[picture // each]
                mapped.setdefault(picture, MappedText(picture, 0, text, words))
            if self._choice.steps.is_active(fraction(args, kwargs)):
                recorder.begin_step([*[None] * (rows - pictures), *(mapped[picture] for picture in range(pictures))])
            else:
                recorder.begin_step([])

        # Before the recorder's own, which asks what the rows are.
        handle = unet.register_forward_pre_hook(before, with_kwargs=True)
        try:
            with recorder:
                recorder.watch(unet, len(unet.config.block_out_channels))
                yield
        finally:
            handle.remove()
        error, maps = recorder.error, recorder.take()
        self.maps[:] = [maps[picture] for picture in sorted(maps)]
        if error is not None:
            self._warn(f"There are no attention maps: {error}")
        elif mapped and not maps and any(words for _, words in texts):
            self._warn(
                "There are no attention maps: no step or layer is among those asked for, or the UNet computes its "
                "attention without to_q and to_k, as with fused projections"
            )

    def _text(self, encoder: PipelineEncoder, parts: Parts, alone: Sequence[str]) -> tuple[str, Any]:
        chunks = encoder.target_chunks(parts)
        words = {part.name: part.class_word for part in parts if isinstance(part, Mention) and part.name in alone}
        names = [names_of(chunk, _embeddings(chunk), words) for chunk in chunks]
        found = words_of(chunks, names, _Vocabulary(encoder), self._choice.words)
        return encoder.text_of(chunks[0].chunk, chunks[0].text_stop), bounded(found)

    def _tell_missing(self, texts: Sequence[tuple[str, Any]]) -> None:
        present = {name_key(word.text) for _, words in texts for word in words}
        missing = [word for word in self._choice.words if name_key(word) not in present]
        if missing:
            self._warn(f"There is no attention map of {', '.join(map(repr, missing))}, which is not in the prompt")


_END = "</w>"


class _Vocabulary:
    """A text encoder's, as `alignit.maps.words` asks for it."""

    def __init__(self, encoder: PipelineEncoder) -> None:
        self._encoder = encoder
        # CLIP's tokens say where words end; a vocabulary that does not is one of whole words.
        self._marks_ends = any(token.endswith(_END) for token in encoder.tokenizer.get_vocab())

    def tokens(self, text: str) -> Sequence[int]:
        """Return the tokens of a text."""
        return self._encoder.tokenize(text)

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of some tokens."""
        return str(self._encoder.tokenizer.decode(list(tokens)))

    def ends_word(self, token: int) -> bool:
        """Say whether a word ends with a token."""
        return not self._marks_ends or str(self._encoder.tokenizer.convert_ids_to_tokens(token)).endswith(_END)


def _embeddings(chunk: Target) -> dict[int, str]:
    return {
        row: embedding.name
        for start, embedding in chunk.chunk.embeddings
        if embedding is not None
        for row in range(start, start + embedding.length)
    }
