"""AlignIT on a diffusers pipeline: Algorithm 1 (arXiv 2406.18893) from an ordinary prompt to pictures."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from numbers import Real
from typing import Any

from alignit.algorithm.controls import MAX_STRENGTH, Controls
from alignit.algorithm.injection import EncodedBatch, Injection, row_strength
from alignit.algorithm.options import ControlsError
from alignit.algorithm.prompts import base_chunk, dummy_chunk
from alignit.algorithm.steps import StepRange
from alignit.concepts.concept import Concept, ModelShapes
from alignit.concepts.weight_change import WeightChange
from alignit.diffusers.attention_maps import MapWatch
from alignit.diffusers.concepts import ConceptPrompts, ConceptToken, Parts
from alignit.diffusers.conditioning import Negative, condition, filler_tokens
from alignit.diffusers.errors import AlignITError, AlignITWarning
from alignit.diffusers.text import text_encoders
from alignit.diffusers.unet import Sampling, check_projections, layer_modules
from alignit.maps.result import AttentionMaps
from alignit.maps.words import MapChoice
from alignit.prompt.resolve import Mention
from alignit.prompt.suggestions import noun_tokens, suggest_class_words


class AlignIT:
    """A diffusers pipeline that aligns its pictures with prompts that name trained concepts.

    The pipeline is any of Stable Diffusion 1, 2 or XL that takes `prompt_embeds`. It is not changed: what a call needs
    is hooked into its text encoders and its UNet for the time of that call.
    """

    def __init__(
        self, pipe: Any, concepts: Concept | Sequence[Concept], class_words: Mapping[str, str] | None = None
    ) -> None:
        """Check concepts against a pipeline.

        Args:
            pipe: The pipeline, with the base model.
            concepts: What `load_concept` read.
            class_words: Class words by token, ``{"<my-cat>": "cat"}``, for prompts that give none; one in the prompt,
                ``<my-cat=cat>``, comes first, and one remembered beside the concept's file last.

        Raises:
            ConceptFileError: A concept does not fit the model.
            AlignITError: The pipeline is of no kind that AlignIT works with, or the arguments contradict each other.
        """
        self.pipe = pipe
        concepts = _checked_concepts(concepts)
        if getattr(pipe, "unet", None) is None:
            raise AlignITError(
                f"A {type(pipe).__name__} has no UNet with cross-attention: use a pipeline of Stable Diffusion 1, 2 or "
                "XL"
            )
        self._check(concepts)
        self._concepts = ConceptPrompts(concepts, _checked_words(class_words), self._nearest)
        self._maps: MapWatch | None = None

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        align: bool = True,
        concept_strength: float = 1.0,
        concept_start: float = 0.0,
        concept_end: float = 1.0,
        concept_controls: str | Controls = "",
        **arguments: Any,
    ) -> Any:
        """Make pictures.

        Args:
            prompt: The target prompt, or several. A concept is named by its token with a class word, ``<my-cat=cat>``;
                for Custom Diffusion also ``<new1> cat``, where the class word is a part of the concept.
            negative_prompt: As in the pipeline; one for all prompts, or one for each. Concepts in it are plain.
            align: False gives the customisation method's own result, for comparison: strength and steps have no
                meaning then.
            concept_strength: Blend of keys and values, 0 to 2: 0 is the class word's, 1 the paper's, above 1
                extrapolates.
            concept_start: Fraction of the sampling steps before which nothing is injected.
            concept_end: Fraction of the sampling steps from which on nothing is injected.
            concept_controls: More of this, as text (see `alignit.algorithm.controls`): "keys; layers down mid". For one
                concept it stands in the prompt, ``<my-cat=cat; 0.5; keys>``. Or all of it, as `Controls`: strength and
                steps are among them, so concept_strength, concept_start and concept_end are left out then.
            arguments: The pipeline's own: num_inference_steps, guidance_scale, generator, image, and so on.

        Returns:
            What the pipeline returns.

        Raises:
            AlignITError: As `prepared`; or an argument of the pipeline that has no meaning here.
        """
        if "prompt_2" in arguments:
            raise AlignITError("Both text encoders read the same prompt with AlignIT: leave prompt_2 out")
        if "negative_prompt_2" in arguments:
            raise AlignITError(
                "Both text encoders read the same negative prompt with AlignIT: leave negative_prompt_2 out"
            )
        embeds = [name for name in arguments if name.endswith("prompt_embeds")]
        if embeds:
            raise AlignITError(
                f"{embeds[0]} is what AlignIT makes of the prompts: leave it out, and give prompt and negative_prompt "
                "as text"
            )
        scale = (arguments.get("cross_attention_kwargs") or {}).get("scale", 1)
        if scale != 1 and any(hasattr(encoder.model, "peft_config") for encoder in text_encoders(self.pipe)):
            raise AlignITError(
                "A LoRA's scale in cross_attention_kwargs would not reach the text encoder: set it with "
                "pipe.set_adapters(names, adapter_weights=...)"
            )
        prepared = self.prepared(
            prompt,
            negative_prompt=negative_prompt,
            align=align,
            concept_strength=concept_strength,
            concept_start=concept_start,
            concept_end=concept_end,
            concept_controls=concept_controls,
            clip_skip=arguments.get("clip_skip"),
        )
        with prepared as embeddings:
            return self.pipe(**embeddings, **arguments)

    @contextmanager
    def prepared(
        self,
        prompt: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        align: bool = True,
        concept_strength: float = 1.0,
        concept_start: float = 0.0,
        concept_end: float = 1.0,
        concept_controls: str | Controls = "",
        clip_skip: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Prepare the pipeline for pictures of a prompt, until the end of a ``with`` block.

        Args: as in a call; clip_skip as in the pipeline.

        Yields:
            The arguments that stand for the prompts in a call of the pipeline: prompt_embeds [prompts, tokens, width]
            and what belongs to it. A prompt of more than 75 tokens is encoded in chunks of 75, of 77 rows each.

        Raises:
            AlignITError: A concept has no class word; a number is out of its range; the trained weights cannot be used
                in this pipeline.
        """
        default = _checked(concept_strength, concept_start, concept_end, concept_controls)
        texts = _texts("prompt", prompt)
        if not texts:
            raise AlignITError("There is no prompt: give at least one")
        prompts = [self._concepts.parts(text, align) for text in texts]
        tokens = [_tokens(parts) for parts in prompts]
        if all(isinstance(part, str) for parts in prompts for part in parts):
            self._warn(
                f"No prompt names a concept, so the pictures are the pipeline's own. There is {self._concepts}: "
                "name it in the prompt"
            )
        changes = _changes(tokens)
        if changes:
            check_projections(self.pipe.unet)
            if not align:
                _check_plain(tokens)

        controls = _controls(prompts, default)

        def strength_of(name: str) -> float:
            return row_strength(controls[name], name in changes)

        negative = self._negative(negative_prompt, len(texts))
        conditioned = condition(self.pipe, prompts, negative, clip_skip, strength_of, controls.__getitem__)
        batch = EncodedBatch(
            tuple(conditioned.injected), controls, changes, () if align else self._moved(changes.values())
        )
        if batch.in_layers:
            check_projections(self.pipe.unet)
        with ExitStack() as stack:
            injection = stack.enter_context(Injection(batch, _levels))
            sampling = stack.enter_context(Sampling(self.pipe.unet, self.pipe.scheduler, injection))
            if self._maps is not None:
                alone = [name for name, control in controls.items() if align and control.strength == 0]
                recording = self._maps.recording(
                    self.pipe, text_encoders(self.pipe)[0], prompts, alone, sampling.fraction
                )
                stack.enter_context(recording)
            yield conditioned.arguments
            self._tell_lost(injection.lost, set(changes), sampling.called)

    @contextmanager
    def attention_maps(self, words: str = "") -> Iterator[list[AttentionMaps]]:
        """Record where in the pictures of the calls in the block the cross-attention looked at the prompt's words.

        Args:
            words: Of which words, and in which layers and steps, as text (see `alignit.maps.words`):
                "cat, ball; down mid; steps 0-0.5". Empty: of every word.

        Yields:
            A list, which after each call holds the maps of its pictures, in order.

        Raises:
            AlignITError: The words cannot be read, or maps are being recorded already.
        """
        if self._maps is not None:
            raise AlignITError("Attention maps are being recorded already: leave the outer block first")
        if not isinstance(words, str):
            raise AlignITError(f"words is {_shown(words)}: give text, such as 'cat, ball'")
        try:
            choice = MapChoice.parse(words)
        except ControlsError as error:
            raise AlignITError(f"In the words for attention maps, {error}") from None
        self._maps = MapWatch(choice, self._warn)
        try:
            yield self._maps.maps
        finally:
            self._maps = None

    def explain(self, prompt: str) -> str:
        """Return what is made of a prompt, to read: its base prompt, and each concept's rows and dummy prompt.

        Rows count from a chunk's start token, which is row 0. The tokens are those of the first text encoder.

        Raises:
            AlignITError: As in a call.
        """
        encoder = text_encoders(self.pipe)[0]
        if not isinstance(prompt, str):
            raise AlignITError(f"prompt is {_shown(prompt)}: give text")
        parts = self._concepts.parts(prompt, align=True)
        controls = _controls([parts], Controls())
        filler = filler_tokens(encoder, controls.__getitem__)
        lines = []
        for target in encoder.target_chunks(parts):
            lines.append(f"base: {encoder.text_of(base_chunk(target), target.text_stop)}")
            for name in target.concepts():
                rows = ", ".join(map(str, target.concept_rows(name)))
                dummy = dummy_chunk(target, name, filler(name))
                lines.append(f"{name} at {rows}: {encoder.text_of(dummy, target.text_stop)}")
        return "\n".join(lines)

    def _negative(self, prompt: str | Sequence[str] | None, count: int) -> Negative | None:
        if prompt is None:
            return None
        texts = [prompt] * count if isinstance(prompt, str) else _texts("negative_prompt", prompt)
        if len(texts) != count:
            raise AlignITError(
                f"There are {len(texts)} negative prompts for {count} prompts: give one, or one for each"
            )
        return Negative(texts, [self._concepts.parts(text, align=False) for text in texts])

    def _moved(self, changes: Iterable[WeightChange]) -> tuple[WeightChange, ...]:
        # Else the weights would be moved in each layer at each step.
        place = self.pipe._execution_device, self.pipe.unet.dtype
        return tuple(change.to(*place) for change in dict.fromkeys(changes))

    def _check(self, concepts: Sequence[Concept]) -> None:
        modules = layer_modules(self.pipe.unet)
        encoders = text_encoders(self.pipe)
        shapes = ModelShapes(
            {encoder.key: encoder.table.shape[-1] for encoder in encoders},
            {layer: (module.out_features, module.in_features) for layer, module in modules.items()},
            encoder_layers=encoders[0].model.config.num_hidden_layers,
            dtype=self.pipe.unet.dtype,
        )
        for concept in concepts:
            concept.check_against(shapes)
            notes = list(concept.notes)
            if concept.weights is not None:
                # Those that are offloaded layer by layer have no numbers here.
                live = {layer: module.weight for layer, module in modules.items() if not module.weight.is_meta}
                doubt = concept.weights.doubt(live)
                notes += [doubt] if doubt else []
            for note in notes:
                self._warn(f"'{concept.path.name}': {note}")

    def _tell_lost(self, lost: frozenset[str], changed: set[str], called: bool) -> None:
        names = ", ".join(sorted(lost or changed))
        if changed and not called:
            self._warn(f"The pipeline was not called in the 'with' block, so nothing of {names} is used: call it there")
        elif called and lost:
            self._warn(
                f"{names} reached the UNet nowhere: the conditioning was changed on the way to it. Give the pipeline "
                "prompt_embeds as they are"
            )

    @staticmethod
    def _warn(message: str) -> None:
        warnings.warn(f"{message.rstrip('.')}.", AlignITWarning, stacklevel=_outside())

    def _nearest(self, token: ConceptToken) -> list[str]:
        if token.embedding is None:
            return []
        encoders = text_encoders(self.pipe)
        if any(encoder.table.is_meta for encoder in encoders):
            return []  # offloaded layer by layer
        tokens = noun_tokens(lambda texts: [encoders[0].tokenize(text) for text in texts])
        return suggest_class_words(
            token.embedding.vectors, {encoder.key: encoder.table for encoder in encoders}, tokens
        )


def _levels(unet: Any) -> int:
    return len(unet.config.block_out_channels)


def _checked_concepts(concepts: Any) -> list[Concept]:
    listed = [concepts] if isinstance(concepts, Concept | str | os.PathLike) else concepts
    if not isinstance(listed, Sequence):
        raise AlignITError(f"concepts is {_shown(concepts)}: give what load_concept(path) returns, or a list of it")
    for concept in listed:
        if isinstance(concept, str | os.PathLike):
            raise AlignITError(f"'{concept}' is a path, not a concept: give load_concept('{concept}')")
        if not isinstance(concept, Concept):
            raise AlignITError(f"{_shown(concept)} is no concept: give what load_concept(path) returns")
    return list(listed)


def _checked_words(class_words: Any) -> Mapping[str, str]:
    words = {} if class_words is None else class_words
    if not isinstance(words, Mapping):
        raise AlignITError(f"class_words is {_shown(words)}: give class words by token, {{'<my-cat>': 'cat'}}")
    for name, word in words.items():
        if not isinstance(name, str) or not isinstance(word, str):
            raise AlignITError(f"class_words has {_shown(name)}: {_shown(word)}: give text by token, '<my-cat>': 'cat'")
    return words


def _texts(name: str, prompts: Any) -> list[str]:
    texts = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise AlignITError(f"{name} is {_shown(prompts)}: give text, or a list of texts")
    return list(texts)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _checked(strength: float, start: float, end: float, options: str | Controls) -> Controls:
    if isinstance(options, Controls):
        if (strength, start, end) != (1, 0, 1):
            raise AlignITError(
                "Controls have their own strength and steps: leave concept_strength, concept_start and concept_end out"
            )
        _check_range("", options.strength, options.steps.start, options.steps.end)
        return options.with_options("")
    if not isinstance(options, str):
        raise AlignITError(f"concept_controls is {_shown(options)}: give text, such as 'keys', or Controls")
    _check_range("concept_", strength, start, end)
    try:
        return Controls(strength, steps=StepRange(start, end)).with_options(options)
    except ControlsError as error:
        raise AlignITError(f"In concept_controls, {error}") from None


def _check_range(prefix: str, strength: float, start: float, end: float) -> None:
    for name, value, largest in (("strength", strength, MAX_STRENGTH), ("start", start, 1), ("end", end, 1)):
        if isinstance(value, bool) or not isinstance(value, Real):
            raise AlignITError(f"{prefix}{name} must be a number from 0 to {largest:g}, not {_shown(value)}")
        if not 0 <= value <= largest:
            raise AlignITError(f"{prefix}{name} must be from 0 to {largest:g}, not {value}")
    if start > end:
        raise AlignITError(f"{prefix}start ({start:g}) must not be greater than {prefix}end ({end:g})")


def _controls(prompts: Sequence[Parts], default: Controls) -> dict[str, Controls]:
    """Return how each concept is put in, by the name of its token."""
    options: dict[str, str] = {}
    for mention in (part for parts in prompts for part in parts if isinstance(part, Mention)):
        name = mention.name
        if options.setdefault(name, mention.options) != mention.options:
            raise AlignITError(f"'{name}' has two sets of options: write the same at all of its mentions")
    try:
        return {name: default.with_options(text) for name, text in options.items()}
    except ControlsError as error:
        raise AlignITError(f"In the prompt, {error}") from None


def _tokens(parts: Parts) -> list[ConceptToken]:
    return [part.item for part in parts if not isinstance(part, str) and part.item is not None]


def _changes(prompts: Sequence[Sequence[ConceptToken]]) -> dict[str, WeightChange]:
    return {token.name: token.change for tokens in prompts for token in tokens if token.change is not None}


def _check_plain(prompts: Sequence[Sequence[ConceptToken]]) -> None:
    """Check that plain Custom Diffusion means the same for all prompts: its weights act on the whole batch."""
    if len({frozenset(token.change for token in tokens if token.change) for tokens in prompts}) > 1:
        raise AlignITError(
            "Plain Custom Diffusion changes the weights for all prompts of a call, and these name different concepts: "
            "call the pipeline for each prompt"
        )


def _outside() -> int:
    """Return how far above the caller of the warning the first frame outside of this package is."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and (
        frame.f_globals.get("__name__", "").startswith("alignit.") or "contextlib" in frame.f_code.co_filename
    ):
        level, frame = level + 1, frame.f_back
    return level
