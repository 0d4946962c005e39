"""The embeddings that the WebUI has loaded, by name.

The host lists those that fit the loaded model, and passes over the rest. It passes over SDXL's embeddings for SDXL's
refiner, though they hold what the refiner's text encoder takes; these are found here all the same.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch

from alignit.prompt.suggestions import noun_tokens, suggest_class_words
from alignit.prompt.syntax import compared, in_prompt, name_key, name_pattern
from alignit.webui.host import host
from alignit.webui.host.ports import Embedding, Model, UnsupportedEncoderError

SUGGESTIONS = 5


def find_embedding(name: str) -> Embedding | None:
    """Return the embedding of this name that fits the loaded model, or None.

    Names are compared as the host's tokenizer compares them in a prompt; ``my-cat`` also finds an embedding whose own
    name is in angle brackets, as the paper and diffusers write it.
    """
    embeddings = host().embeddings
    found = _by_name(embeddings.fitting, name)
    if found is None:
        found = _by_name(embeddings.passed_over, name)
        if found is not None and not _fits(found):
            found = None
    return found


def written_name(name: str) -> str:
    """Return how a name is written in a prompt: with a backslash before brackets, where these mean emphasis."""
    return in_prompt(name) if host().options.emphasis else name


def find_embedding_name(name: str) -> str | None:
    """Return the name under which an embedding is installed for the loaded model, or None."""
    embedding = find_embedding(name)
    return None if embedding is None else str(embedding.name)


def is_installed(name: str) -> bool:
    """Say whether an embedding of this name is installed, for whatever model."""
    embeddings = host().embeddings
    return any(_by_name(found, name) for found in (embeddings.fitting, embeddings.passed_over))


def is_for_another_model(name: str) -> bool:
    """Say whether an embedding of this name is installed, but does not fit the loaded model."""
    # Two files of one name, each for a kind of model, are common: one of them is loaded then, the other passed over.
    skipped = host().embeddings.passed_over
    return find_embedding(name) is None and _by_name(skipped, name) is not None


def passed_over_in(text: str) -> list[str]:
    """Return the names in a text, as installed, of embeddings that the host passes over for the loaded model."""
    return _standing_in(text, host().embeddings.passed_over)


def all_embeddings() -> list[tuple[Embedding, bool]]:
    """Return all installed embeddings, and for each whether it fits the loaded model."""
    embeddings = host().embeddings
    fitting = {embedding.name: (embedding, True) for embedding in embeddings.fitting.values()}
    others = {embedding.name: (embedding, _fits(embedding)) for embedding in embeddings.passed_over.values()}
    return list((others | fitting).values())


def embedding_names() -> list[str]:
    """Return the names of the loaded model's embeddings."""
    return list(host().embeddings.fitting)


def embeddings_in(text: str) -> list[str]:
    """Return the names in a text of the loaded model's embeddings."""
    return _standing_in(text, host().embeddings.fitting)


def embedding_in_tokens(tokens: list[int]) -> Embedding | None:
    """Return the first embedding that the host would find in these tokens, or None."""
    found = (host().embeddings.at(tokens, position)[0] for position in range(len(tokens)))
    return next((embedding for embedding in found if embedding is not None), None)


def nearest_class_words(model: Model, embedding: Embedding) -> list[str]:
    """Suggest class words for an embedding, nearest first; none that is itself the name of an embedding."""
    encoder = model.encoders[0]
    tables = token_tables(model)
    vec = embedding.vec
    vectors = vec if isinstance(vec, Mapping) else dict.fromkeys(tables, vec)
    if encoder.vocabulary not in _noun_tokens:
        # Thousands of words: once for each kind of text encoder, as kinds differ in the vocabulary if anything does.
        _noun_tokens[encoder.vocabulary] = noun_tokens(lambda words: list(map(encoder.tokens, words)))
    nearest = suggest_class_words(vectors, tables, _noun_tokens[encoder.vocabulary], 2 * SUGGESTIONS)
    return [word for word in nearest if find_embedding(word) is None][:SUGGESTIONS]


_noun_tokens: dict[Hashable, dict[str, int]] = {}


def token_tables(model: Model) -> dict[str, torch.Tensor]:
    """Return the token embeddings [V, width] of each text encoder, by its key in SDXL embeddings: clip_l, clip_g.

    Raises:
        UnsupportedEncoderError: The model's text encoders cannot be used, or take no embeddings.
    """
    return dict(encoder.token_table for encoder in model.encoders)


def _fits(embedding: Embedding) -> bool:
    try:
        tables = token_tables(host().model())
    except UnsupportedEncoderError:
        return False
    vec = embedding.vec
    if "clip_g" not in tables or not isinstance(vec, Mapping):
        return False  # not of SDXL's family: the widths alone can fit and mean nothing, as SDXL's first do on SD 1
    return all(key in vec and vec[key].shape[-1] == table.shape[-1] for key, table in tables.items())


def _standing_in(text: str, embeddings: Mapping[str, Embedding]) -> list[str]:
    # A collection can hold thousands: patterns are made for the names at hand alone.
    words = compared(text)
    return [name for name in embeddings if compared(name) in words and name_pattern(name).search(text)]


def _by_name(embeddings: Mapping[str, Embedding], name: str) -> Embedding | None:
    # In this order: with <new1>.pt and new1.pt both installed, each is found by its own name.
    own, key = compared(name), name_key(name)
    wanted = list(dict.fromkeys((own, f"<{own}>", key)))
    found = {compared(one): embedding for one, embedding in reversed(list(embeddings.items())) if name_key(one) == key}
    return next((found[one] for one in wanted if one in found), None)
