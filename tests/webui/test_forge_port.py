"""The ports for Forge and Forge Neo against engines that do what theirs do; the hosts themselves: tests/forks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from alignit.webui.host.forge import Forge
from alignit.webui.host.forge.model import ForgeModel
from alignit.webui.host.ports import Rewritten, UnsupportedEncoderError

WIDTH = 4


class Database:
    """The embeddings of one engine; a token's name is its letter."""

    def __init__(self, key: str) -> None:
        self.fixes: Any = None
        self.word_embeddings = {"x": SimpleNamespace(name="x", vec=torch.full((1, WIDTH), 9.0), vectors=1, of=key)}
        self.skipped_embeddings: dict[str, Any] = {}

    def find_embedding_at_position(self, tokens: list[int], position: int) -> tuple[Any, int | None]:
        found = self.word_embeddings.get(chr(tokens[position]))
        return (found, 1) if found else (None, None)


class Engine:
    """Encodes letters: called as Forge's engines are, with their parts under the same names."""

    def __init__(self, key: str, pooled: bool = False) -> None:
        self.embedding_key = key
        self.embeddings = Database(key)
        self.emphasis = SimpleNamespace(name="of the last call")
        self.pooled = pooled
        self.id_end = 0
        self.chunk_length = 5

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        return [list(map(ord, text)) for text in texts]

    def tokenize_line(self, line: str) -> tuple[list[Any], int]:
        (tokens,) = self.tokenize([line])
        chunk = SimpleNamespace(tokens=[], multipliers=[], fixes=[], emphasis=self.emphasis.name)
        for position, token in enumerate(tokens):
            embedding, _ = self.embeddings.find_embedding_at_position(tokens, position)
            if embedding is not None:
                chunk.fixes.append((position, embedding))
            chunk.tokens.append(0 if embedding is not None else token)
        return [chunk], len(tokens)

    def process_texts(self, texts: list[str]) -> tuple[list[list[Any]], int]:
        lines = [self.tokenize_line(text) for text in texts]
        return [chunks for chunks, _ in lines], max(count for _, count in lines)

    def process_tokens(self, tokens: list[list[int]], _multipliers: list[list[float]]) -> torch.Tensor:
        rows = torch.tensor(tokens, dtype=torch.float32)[..., None].expand(-1, -1, WIDTH).clone()
        fixes, self.embeddings.fixes = self.embeddings.fixes, None
        for row, of_row in zip(rows, fixes or [], strict=False):
            for place, embedding in of_row:
                row[place + 1] = embedding.vec[0]
        return rows

    def __call__(self, texts: list[str]) -> Any:
        self.emphasis = SimpleNamespace(name="set by a call")
        batch, _ = self.process_texts(texts)
        rows = self.process_tokens([chunks[0].tokens for chunks in batch], [])
        return (rows, rows[:, 0]) if self.pooled else rows


class Model:
    """An engine for a whole model; of a kind with cross-attention, or not."""

    is_sd1 = is_sdxl = False
    sd_checkpoint_info = "checkpoint"

    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)
        inner = SimpleNamespace(diffusion_model=torch.nn.Identity(), computation_dtype=torch.float16)
        self.forge_objects = SimpleNamespace(unet=SimpleNamespace(model=inner))


class Flux(Model):
    """It has an engine for CLIP, whose rows no layer attends to."""


@pytest.fixture
def sd_models(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What the port imports of the host: a model that is none, at first."""
    models = ModuleType("modules.sd_models")
    models.model_data = SimpleNamespace(sd_model=SimpleNamespace(cond_stage_model=None), forge_hash="hash")
    models.forge_model_reload = lambda: (sdxl(), True)
    shared = ModuleType("modules.shared")
    shared.opts = SimpleNamespace(emphasis="of the setting")
    emphasis = ModuleType("backend.text_processing.emphasis")
    emphasis.get_current_option = lambda name: lambda: SimpleNamespace(name=name)
    text_processing = ModuleType("backend.text_processing")
    text_processing.emphasis = emphasis
    modules = ModuleType("modules")
    modules.sd_models, modules.shared = models, shared
    for module in (modules, models, shared, ModuleType("backend"), text_processing, emphasis):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return models


def sdxl() -> Model:
    return Model(
        is_sdxl=True,
        text_processing_engine_l=Engine("clip_l"),
        text_processing_engine_g=Engine("clip_g", pooled=True),
    )


READER = SimpleNamespace(tokens=lambda text: [ord(letter) + 1 for letter in text], embedding=lambda *_: (None, None))


def test_there_is_no_model_before_the_first_picture(sd_models: Any) -> None:
    host = Forge()
    assert host.loaded_model() is None
    assert host.embeddings.fitting == host.embeddings.passed_over == {}
    assert host.embeddings.at([120], 0) == (None, None)
    assert isinstance(host.model(), ForgeModel)
    sd_models.model_data.sd_model = None  # while another one is being loaded
    assert host.loaded_model() is None


def test_both_encoders_of_sdxl_have_the_embeddings_of_the_first(sd_models: Any) -> None:
    sd_models.model_data.sd_model = model = sdxl()
    host = Forge()
    assert [encoder.vocabulary for encoder in host.model().encoders] == ["clip_l", "clip_g"]
    assert host.embeddings.fitting is model.text_processing_engine_l.embeddings.word_embeddings
    assert host.embeddings.at([ord("x")], 0)[0].of == "clip_l"


def test_models_without_cross_attention_are_named(sd_models: Any) -> None:
    sd_models.model_data.sd_model = Flux(text_processing_engine_l=Engine("clip_l"))
    with pytest.raises(UnsupportedEncoderError, match="of the kind Flux has no cross-attention"):
        _ = Forge().model().encoders


def test_the_engines_stand_in_their_places_again(sd_models: Any) -> None:  # noqa: ARG001
    sd_model = sdxl()
    before = dict(vars(sd_model))
    engine = sd_model.text_processing_engine_g
    state = dict(vars(engine))
    encoder = ForgeModel(sd_model, SimpleNamespace()).encoders[1]
    plain_rows, plain_pooled = sd_model.text_processing_engine_g(["ab"])
    chunks = encoder.chunks("bc", READER)[0]

    def rewrite(texts: Any) -> Rewritten | None:
        assert texts == ["ab"]
        return Rewritten([chunks], 2, lambda rows: rows + 1)

    with encoder.rewriting(rewrite):
        rows, pooled = sd_model.text_processing_engine_g(["ab"])
        assert sd_model.text_processing_engine_g.chunk_length == 5
        sd_model.text_processing_engine_g.clip_skip = 2  # as the host sets it before it encodes
    assert engine.__dict__.pop("clip_skip") == 2
    assert rows[0, :, 0].tolist() == [ord("c") + 1, ord("d") + 1]
    assert pooled[0, 0] == ord("c")
    assert vars(sd_model) == before
    with encoder.rewriting(lambda _texts: None):
        assert torch.equal(sd_model.text_processing_engine_g(["ab"])[0], plain_rows)
    with pytest.raises(ZeroDivisionError), encoder.rewriting(lambda _texts: Rewritten([chunks], 2, lambda _: 1 / 0)):
        sd_model.text_processing_engine_g(["ab"])
    assert vars(sd_model) == before
    assert vars(engine).keys() == state.keys()
    assert torch.equal(sd_model.text_processing_engine_g(["ab"])[1], plain_pooled)


def test_a_prompt_is_cut_by_the_setting_as_it_is_now_and_the_engine_is_not_touched(sd_models: Any) -> None:  # noqa: ARG001
    sd_model = sdxl()
    engine = sd_model.text_processing_engine_l
    before = dict(vars(engine))
    encoder = ForgeModel(sd_model, SimpleNamespace()).encoders[0]
    (chunk,), count = encoder.chunks("ax", READER)
    assert (chunk.emphasis, count) == ("of the setting", 2)
    assert chunk.tokens == [ord("b"), ord("y")]  # the reader's tokens, and none of the engine's embeddings
    assert vars(engine) == before


def test_vectors_are_for_one_chunk_alone_after_errors_too(sd_models: Any) -> None:  # noqa: ARG001
    sd_model = sdxl()
    engine = sd_model.text_processing_engine_l
    encoder = ForgeModel(sd_model, SimpleNamespace()).encoders[0]
    embedding = engine.embeddings.word_embeddings["x"]
    rows = encoder.encode([1, 0, 3], [1.0] * 3, [(1, embedding)])
    assert rows[:, 0].tolist() == [1, 9, 3]
    engine.process_tokens = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        encoder.encode([1, 0, 3], [1.0] * 3, [(1, embedding)])
    assert engine.embeddings.fixes is None


def linear(**attributes: Any) -> Any:
    return SimpleNamespace(**attributes)


@pytest.mark.parametrize(
    ("module", "shape", "readable"),
    [
        (linear(weight=torch.zeros(8, 6), in_features=6, out_features=8), (8, 6), True),
        (linear(weight=torch.zeros(8, 6), in_features=6, out_features=8, scale_weight=torch.ones(1)), (8, 6), False),
        (linear(weight=torch.zeros(24, 1, dtype=torch.uint8), in_features=6, out_features=8), (8, 6), False),
        (linear(weight=SimpleNamespace(shape=(24, 1), quant_state=SimpleNamespace(shape=(8, 6)))), (8, 6), False),
        (linear(weight=SimpleNamespace(shape=(8, 6))), (8, 6), False),
    ],
)
def test_weights_in_fewer_bits_are_not_compared(sd_models: Any, module: Any, shape: Any, readable: bool) -> None:  # noqa: ARG001
    found, weight = ForgeModel(sdxl(), SimpleNamespace()).linear(module)
    assert found == shape
    assert (weight is not None) == readable
