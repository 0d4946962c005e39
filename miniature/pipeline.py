"""The miniature as a diffusers pipeline, with a tokenizer of its own words: nothing is downloaded."""

from __future__ import annotations

from diffusers import StableDiffusionPipeline
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from miniature.export import full_text_encoder
from miniature.sampling import make_scheduler
from miniature.weights import Miniature
from miniature.words import END, LENGTH, START, VOCABULARY, WORDS

_BEGIN, _STOP, _UNKNOWN = "<|startoftext|>", "<|endoftext|>", "<unknown>"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that gives the miniature's words the numbers that CLIP's does."""
    words = {**WORDS, _BEGIN: START, _STOP: END, _UNKNOWN: 0}
    known = set(words.values())
    # Numbers without a word would be taken for damage.
    words |= {f"<unused {number}>": number for number in range(VOCABULARY) if number not in known}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=_UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[a-z]+|[^\sa-z]"), "removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_BEGIN} $A {_STOP}", special_tokens=[(_BEGIN, START), (_STOP, END)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=_BEGIN,
        eos_token=_STOP,
        pad_token=_STOP,
        unk_token=_UNKNOWN,
        model_max_length=LENGTH,
    )


def make_pipeline(miniature: Miniature) -> StableDiffusionPipeline:
    """Return a pipeline of the miniature, in float32 on the CPU."""
    miniature.vae.register_to_config(scaling_factor=miniature.scale)
    pipeline = StableDiffusionPipeline(
        vae=miniature.vae,
        unet=miniature.unet,
        text_encoder=full_text_encoder(miniature.text),
        tokenizer=make_tokenizer(),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
