"""What AlignIT asks of a host of the WebUI family, as protocols; `host()` gives the one that is running.

``p`` is everywhere the host's processing object: one generation. ``T`` is the 77 tokens of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from PIL import Image

from alignit.concepts.concept import EncoderChange
from alignit.concepts.layer_change import LayerChange
from alignit.concepts.weight_change import WeightChange

Value = TypeVar("Value")

Conditioning = torch.Tensor | dict[str, torch.Tensor]
"""What a prompt becomes: its rows [batch, rows, width], in SDXL under the key ``crossattn`` beside other vectors."""


def cross_attention(conditioning: Conditioning) -> torch.Tensor:
    """Return a conditioning's rows [batch, rows, width]."""
    return conditioning["crossattn"] if isinstance(conditioning, dict) else conditioning


Condition = Callable[[list[str]], Conditioning]
"""The host's `get_learned_conditioning`. Its texts are a list of the host's, which says the picture's size as well."""


class UnknownHostError(Exception):
    """The host is of no kind that AlignIT knows; the message says so, for the user."""


class UnsupportedEncoderError(Exception):
    """The loaded model's text encoders cannot be used; the message says why, for the user."""


class Embedding(Protocol):
    """An embedding (Textual Inversion) as the host has it, or in the same shape."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def vec(self) -> torch.Tensor | Mapping[str, torch.Tensor]:
        """Its vectors [n, width]; in SDXL by text encoder, ``clip_l`` and ``clip_g``."""

    @property
    def vectors(self) -> int:
        """How many they are, n."""

    @property
    def filename(self) -> str | None:
        """Its file, or None."""


class HostChunk(Protocol):
    """A chunk of a prompt in the host's own shape; AlignIT writes into those that were made for it.

    Attributes:
        tokens: Token ids [T], with the start token, and 0 where vectors stand.
        multipliers: The emphasis of each token [T].
        fixes: Where vectors stand: their place after the start token, and the embedding.
    """

    tokens: list[int]
    multipliers: list[float]
    fixes: list[tuple[int, Any]]


class PromptReader(Protocol):
    """What a prompt's text means, in place of the host's tokenizer and of its embeddings."""

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a piece of the prompt; negative ones stand for what `embedding` gives there."""

    def embedding(self, tokens: list[int], position: int) -> tuple[Any, int | None]:
        """Return what has vectors at a place of the tokens, and over how many tokens it goes; None and None: text."""


@dataclass(frozen=True)
class Rewritten:
    """What a text encoder shall encode in the place of texts.

    Attributes:
        chunks: The chunks of each text.
        token_count: The number of tokens of the longest one.
        edit: Gives the rows to go on with, from those encoded [texts, rows, width].
    """

    chunks: list[list[HostChunk]]
    token_count: int
    edit: Callable[[torch.Tensor], torch.Tensor]


class TextEncoder(Protocol):
    """A text encoder that works on chunks of 77 tokens; a `alignit.maps.words.TokenTexts` as well."""

    @property
    def vocabulary(self) -> Hashable:
        """Differs where a text's tokens may."""

    @property
    def end_token(self) -> int:
        """The id of the token that ends a text."""

    @property
    def token_table(self) -> tuple[str, torch.Tensor]:
        """Its key in SDXL embeddings, ``clip_l`` or ``clip_g``, and its token embeddings [V, width].

        Raises:
            UnsupportedEncoderError: It takes no embeddings.
        """

    @property
    def clip_layers(self) -> Sequence[torch.nn.Module]:
        """Its layers where it is transformers' CLIP, as in SD 1; none where it is another."""

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text, without those for its start and its end."""

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of some tokens.

        Raises:
            UnsupportedEncoderError: The host does not have the vocabulary.
        """

    def ends_word(self, token: int) -> bool:
        """Say whether a word ends with a token."""

    def chunks(self, line: str, reader: PromptReader) -> tuple[list[HostChunk], int]:
        """Cut a prompt line into chunks as the host does: over emphasis, ``BREAK`` and commas.

        Args:
            line: The line.
            reader: Reads it in the place of the host.

        Returns:
            The chunks, made for the caller, and the number of tokens.
        """

    def encode(
        self, tokens: Sequence[int], multipliers: Sequence[float], embeddings: Sequence[tuple[int, Embedding]]
    ) -> torch.Tensor:
        """Encode one chunk as the host would encode a prompt of it alone.

        Args:
            tokens: Its tokens [T].
            multipliers: Their emphasis [T].
            embeddings: The row of the first vector of each embedding, and the embedding.

        Returns:
            Its rows [T, width].
        """

    def rewriting(self, rewrite: Callable[[Sequence[str]], Rewritten | None]) -> AbstractContextManager[None]:
        """For a block, have something else encoded in the place of texts; None: the host encodes them as they are.

        It is asked at each call of the encoder, also where another extension calls it for texts of its own.
        """


class Model(Protocol):
    """The model that the host has loaded. Ask for it anew at each use: checkpoints change in mid-generation."""

    @property
    def unet(self) -> torch.nn.Module:
        """The module that is called with ``context``; its cross-attention layers are named ``attn2``."""

    @property
    def encoders(self) -> Sequence[TextEncoder]:
        """The text encoders in the order in which the host joins their rows, one at least.

        Raises:
            UnsupportedEncoderError: The model has none that works on token chunks.
        """

    @property
    def identity(self) -> Hashable:
        """Differs where the weights do: the same modules can hold another checkpoint."""

    @property
    def encoding_state(self) -> Hashable:
        """Differs where the same prompt is encoded to something else: checkpoint, clip skip, emphasis, precision."""

    @property
    def device(self) -> torch.device:
        """Where the model computes."""

    @property
    def dtype(self) -> torch.dtype:
        """The type of numbers in which its UNet computes."""

    def linear(self, module: Any) -> tuple[tuple[int, int], torch.Tensor | None]:
        """Return the shape of a linear layer of its UNet, [out, in], and its weight; None where that is packed.

        Weights in fewer bits than the model computes in have other numbers, or another shape, than the matrix.
        """

    def conditioning(self, make: Callable[[Condition], Condition]) -> AbstractContextManager[None]:
        """For a block, compute conditionings by what `make` returns for the host's own function."""


class Embeddings(Protocol):
    """The embeddings that are installed."""

    @property
    def fitting(self) -> Mapping[str, Embedding]:
        """Those that the host uses with the loaded model, by name."""

    @property
    def passed_over(self) -> Mapping[str, Embedding]:
        """Those that it does not, by name."""

    def at(self, tokens: list[int], position: int) -> tuple[Embedding | None, int | None]:
        """Return the embedding whose name begins at a place of some tokens, and how many tokens it has."""


@dataclass(frozen=True)
class Setting:
    """A setting in the host's settings page.

    Attributes:
        name: Its name.
        default: Its value where the user set none; its type says what the page shows.
        label: Its label.
        info: What the page says after the label.
        folder: Whether it names a folder: users of the page may be forbidden to choose these.
    """

    name: str
    default: bool | int | str
    label: str
    info: str
    folder: bool = False


class Options(Protocol):
    """The host's settings and its command line."""

    def get(self, name: str, default: Value) -> Value:
        """Return a setting, or the default where the host has none of this name."""

    def flag(self, name: str, default: Value) -> Value:
        """Return an argument of the command line, or the default where it was not given or does not exist."""

    def add(self, section: tuple[str, str], settings: Sequence[Setting], remark: str) -> None:
        """Add a section to the settings page: its name and its title, its settings, and a remark below them."""

    @property
    def emphasis(self) -> bool:
        """Whether brackets in prompts mean emphasis, and a backslash before them that they are text."""

    @property
    def old_emphasis(self) -> bool:
        """Whether the host encodes prompts by its old way, which makes no chunks."""

    @property
    def models_folder(self) -> str:
        """The folder with the folders of models."""


Schedule = list[tuple[int, str]]
"""Prompt editing: texts, each with the last step that it is for."""


class Prompts(Protocol):
    """How the host takes prompts apart."""

    def with_styles(self, prompt: str, styles: Sequence[str]) -> str:
        """Return a prompt with the styles of these names in it."""

    def without_comments(self, prompt: str) -> str:
        """Return a prompt without what the host leaves out of it before anything else of it is read."""

    def networks(self, prompt: str) -> tuple[str, Mapping[str, Any]]:
        """Return a prompt without ``<keyword:...>``, and what stood there, by keyword."""

    def parts(self, prompts: list[str]) -> tuple[list[list[tuple[int, float]]], list[str]]:
        """Take prompts apart at ``AND``: the index and weight of each part by prompt, and the parts' texts."""

    def schedules(self, texts: list[str], steps: int, hires_steps: int | None = None) -> list[Schedule]:
        """Return the schedule of each text, over prompt editing, for a number of steps."""

    @property
    def info(self) -> MutableMapping[str, Any]:
        """What the host has noted for the picture's info while it encoded."""

    @property
    def used_key(self) -> str:
        """Under which key of a picture's info the host lists the embeddings that it used, with commas between them."""

    def used(self, name: str, embedding: Embedding) -> str | None:
        """Return how the host lists an embedding there, or None where it does not."""


class Networks(Protocol):
    """Networks in prompts, ``<keyword:...>``, and their tabs."""

    def register(self, keyword: str, before_encoding: Callable[[Any], None]) -> None:
        """Have ``<keyword:...>`` taken out of prompts, and noted with the generation.

        Args:
            keyword: The keyword.
            before_encoding: Called with each generation, also one that names no such network and one that an extension
                starts without AlignIT's script, once its networks are taken out of its prompts and before these are
                encoded.
        """

    def reread(self, filename: str) -> None:
        """Have all tabs read again what the user wrote about a file."""


@dataclass(frozen=True)
class LoraFile:
    """The file of a LoRA.

    Attributes:
        path: The file.
        metadata: What its trainer wrote into it.
    """

    path: Path
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class LoraParts:
    """What a LoRA changes, part by part, at the strengths of the prompt.

    Attributes:
        projections: Its change of W_k and W_v of the cross-attention, or None.
        encoder: Its change of the text encoders, or None.
        others: Its change of the UNet's other layers, or None.
        modules: How many modules of the model it changes, in all parts.
    """

    projections: WeightChange | None
    encoder: EncoderChange | None
    others: LayerChange | None
    modules: int


class BoundLoras(Protocol):
    """LoRAs that the host leaves to AlignIT: it applies none of their parts by itself."""

    @property
    def parts(self) -> Mapping[Path, LoraParts]:
        """Their parts, by file."""

    def give_back(self) -> None:
        """Have the host apply them again as always; nothing happens where it has begun anew in the meantime."""


class Loras(Protocol):
    """LoRAs that the host applies by itself, ``<lora:NAME:strength>``."""

    def find(self, name: str) -> LoraFile | None:
        """Return the file that a name in a prompt means, or None."""

    def bind(self, files: Collection[Path]) -> BoundLoras:
        """Take these out of those that are at work now, for as long as the host does not read a prompt anew."""


class Sampling(Protocol):
    """The host while it makes pictures."""

    @property
    def interrupted(self) -> bool:
        """Whether the user stopped or skipped the picture that is being made."""

    @property
    def stopping(self) -> bool:
        """Whether the user stopped or skipped it, or asked to stop after it."""

    def count_jobs(self, factor: int) -> bool:
        """Tell the progress bar that there are so many times as many pictures to make.

        Returns:
            Whether the host has counted them by now; else it counts the right number itself.
        """

    def rows_of_call(
        self, rows: Sequence[Value], batch: int, call: Mapping[str, Any]
    ) -> tuple[Sequence[Value | None], Sequence[Value]]:
        """Say which rows of the positive prompts a call of the UNet holds.

        Their content cannot tell: the pictures of a batch share a prompt.

        Args:
            rows: Those still to come in this step: picture by picture, and in a picture part by part of ``AND``.
            batch: How many rows the call has.
            call: Its keyword arguments.

        Returns:
            The call's rows in order, None for one of the negative prompt, as far as there are any; and the rows to come
            after it.
        """

    def inputs(self, attention: torch.nn.Module, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the cross-attention layer's ``to_k`` and ``to_v`` are given for rows of the conditioning.

        They differ from the rows [n, width] where hypernetworks are loaded; else they are the same object.
        """

    def networks(self, module: torch.nn.Module) -> Hashable:
        """Return something that differs where other networks, or other strengths, are in what a module computes.

        Asked within its call. A change of the module's weights themselves need not be in it.
        """


class Step(Protocol):
    """A step of sampling that begins."""

    @property
    def p(self) -> Any:
        """The generation, or None where the step is of none."""

    @property
    def number(self) -> int:
        """The step, from 0, as prompt editing counts it."""

    @property
    def fraction(self) -> float:
        """How much of the sampling lies before the step: from 0, below 1."""

    @property
    def conditioning(self) -> torch.Tensor:
        """The rows of the positive prompts [batch, rows, width], over batch and ``AND``."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the latent picture."""


class Pictures(Protocol):
    """How the host draws and saves."""

    def font(self, size: int) -> Any:
        """Return its font, as pillow takes it."""

    def grid(
        self, rows: Sequence[Sequence[Image.Image]], above: Sequence[Sequence[str]], beside: Sequence[Sequence[str]]
    ) -> Image.Image:
        """Return a grid of pictures, with lines of text above each column and beside each row."""

    def save_grid(self, p: Any, grid: Image.Image, seed: int, prompt: str, info: str) -> None:
        """Save a grid among the generation's grids, as the settings say."""


class LifeCycle(Protocol):
    """When the host calls, and what it is told."""

    def report(self, message: str, *, traceback: bool = True) -> None:
        """Write an error to the console, with the traceback of the one that is being handled; kept for a report."""

    def refuse(self, p: Any, error: Exception) -> None:
        """Have a generation fail with an error for the caller of the API; called before it begins."""

    def extension_of(self, function: Callable[..., Any]) -> str | None:
        """Return the name of the extension that a function is from; None: it is the host's, or it is not known."""

    def scripts_of(self, p: Any) -> Sequence[object]:
        """Return the scripts that the host calls for each picture of a generation."""

    @property
    def queue(self) -> AbstractContextManager[Any]:
        """Held while a picture is made, or something else is done with the model."""

    def on_settings(self, call: Callable[[], None]) -> None:
        """Call when the settings page is made."""

    def on_page(self, call: Callable[[], None]) -> None:
        """Call before the page is made, each time that it is."""

    def on_started(self, call: Callable[[Any], None]) -> None:
        """Call once the server runs, with its FastAPI application."""

    def on_step(self, call: Callable[[Step], None]) -> None:
        """Call before each step of sampling."""

    def on_save(self, call: Callable[[Any], None]) -> None:
        """Call before a picture is saved, with the host's parameters: ``p`` and ``filename``, which may be changed."""


class Host(Protocol):
    """A host: everything above."""

    @property
    def version(self) -> str:
        """Its name and version."""

    @property
    def options(self) -> Options:
        """Settings and command line."""

    @property
    def embeddings(self) -> Embeddings:
        """Textual Inversion."""

    @property
    def prompts(self) -> Prompts:
        """Reading of prompts."""

    @property
    def networks(self) -> Networks:
        """``<keyword:...>``."""

    @property
    def loras(self) -> Loras | None:
        """``<lora:...>``, or None where the host has none that can be taken apart."""

    @property
    def sampling(self) -> Sampling:
        """The making of pictures."""

    @property
    def pictures(self) -> Pictures:
        """Drawing and saving."""

    @property
    def life(self) -> LifeCycle:
        """Callbacks, errors, the queue."""

    def model(self) -> Model:
        """Return the model; one is loaded where there is none yet."""

    def loaded_model(self) -> Model | None:
        """Return the model, or None where none is loaded yet."""
