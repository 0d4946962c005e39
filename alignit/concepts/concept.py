"""What a concept is, whatever file it came from: token embeddings, key and value weights, a text-encoder change.

Nothing here knows a file format; `alignit.concepts.formats` makes these objects, and hosts use them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import torch

# A training run moves each weight by its learning rate a step at most, which turns the matrices by far less than this;
# another checkpoint's can be as alike as a trained one's, so that some are not noticed.
_SAME_CHECKPOINT = 0.9
_COMPARED_LAYERS = 8  # enough to tell full weights from a delta, and quick for SDXL's 140 layers


class ConceptFileError(ValueError):
    """A concept file that cannot be used; the message names the file, what is wrong, and what to do.

    Attributes:
        path: The file.
        problem: What is wrong with it, a sentence without its subject: "is empty".
        remedy: What the user can do.
    """

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        """Join the three parts into a message."""
        super().__init__(f"'{path.name}' {problem}. {remedy}.")
        self.path = path
        self.problem = problem
        self.remedy = remedy


def all_finite(tensor: torch.Tensor, dtype: torch.dtype | None = None) -> bool:
    """Say whether a tensor has neither NaN nor infinity in it, as it is or cast to a type."""
    if tensor.numel() == 0:
        return True
    # The two ends tell: NaN becomes both, and casting keeps the order. Asking each number takes ten times as long.
    # In float32, as torch 2.1 has no aminmax of float16 on the CPU.
    ends = torch.stack(tensor.float().aminmax())
    return bool(ends.to(dtype or tensor.dtype).isfinite().all())


class Family(Enum):
    """The customisation methods whose concepts are used; LoRA's files are read by the host."""

    TEXTUAL_INVERSION = "textual inversion"
    CUSTOM_DIFFUSION = "Custom Diffusion"
    CATVERSION = "CatVersion"
    LORA = "LoRA"


@dataclass(frozen=True, eq=False)
class TokenEmbedding:
    """Vectors that stand in the prompt for one concept token.

    Attributes:
        name: The token as its training run knew it, ``<new1>``, or the file's name where the file names none.
        vectors: By text encoder, [n, token width] in float32, the same n for all: ``clip_l`` is the first or only
            encoder, whatever its kind; an SDXL embedding also has ``clip_g``. WebUIs use the same keys.
    """

    name: str
    vectors: Mapping[str, torch.Tensor]

    @property
    def length(self) -> int:
        """How many tokens of the prompt the embedding takes, n."""
        return next(iter(self.vectors.values())).shape[0]


class Matrix(Protocol):
    """A matrix for one projection, in whatever form a file has it."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All that is held."""

    def dense(self) -> torch.Tensor:
        """Return the matrix, [out, in] in float32."""

    def project(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return what a projection with this matrix makes of rows: [..., in] to [..., out]."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Matrix:
        """Return the matrix on a device and of a type."""


@dataclass(frozen=True, eq=False)
class Dense:
    """A matrix as it is.

    Attributes:
        tensor: [out, in].
    """

    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.tensor.shape[0], self.tensor.shape[1]

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All that is held."""
        return (self.tensor,)

    def dense(self) -> torch.Tensor:
        """Return the matrix, [out, in] in float32."""
        return self.tensor.float()

    def project(self, inputs: torch.Tensor) -> torch.Tensor:
        """See `Matrix`."""
        return torch.nn.functional.linear(inputs, self.tensor.to(inputs))

    def to(self, device: torch.device, dtype: torch.dtype) -> Dense:
        """See `Matrix`."""
        return Dense(self.tensor.to(device, dtype))


@dataclass(frozen=True, eq=False)
class Factors:
    """A matrix of low rank, as two factors that are not multiplied until someone asks.

    Attributes:
        left: [out, r]; singular values are in this one. r may be 0, for a matrix of zeros.
        right: [r, in].
    """

    left: torch.Tensor
    right: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All that is held."""
        return self.left, self.right

    def dense(self) -> torch.Tensor:
        """Return the product, [out, in] in float32."""
        return self.left.float() @ self.right.float()

    def project(self, inputs: torch.Tensor) -> torch.Tensor:
        """See `Matrix`."""
        narrow = torch.nn.functional.linear(inputs, self.right.to(inputs))
        return torch.nn.functional.linear(narrow, self.left.to(inputs))

    def to(self, device: torch.device, dtype: torch.dtype) -> Factors:
        """See `Matrix`."""
        return Factors(self.left.to(device, dtype), self.right.to(device, dtype))


@dataclass(frozen=True)
class Likeness:
    """How weights from a file compare with the live model's, as medians over layers.

    Attributes:
        cosine: Of the two matrices taken as vectors; near 1 for full weights.
        norm_ratio: Norm of the file's over norm of the model's; near 1 for full weights, small for a delta.
    """

    cosine: float
    norm_ratio: float


@dataclass(frozen=True, eq=False)
class KeyValueWeights:
    """Customised weights of a UNet's cross-attention key and value projections.

    Attributes:
        full: Whether the matrices replace the model's weights, W'; else they are added to them, W + strength * delta.
        matrices: By layer (see `alignit.concepts.layer_names`), in the type that the file has. Full weights come as
            pairs of keys and values; a delta may be sparse.
    """

    full: bool
    matrices: Mapping[str, Matrix]

    def likeness(self, live: Mapping[str, torch.Tensor]) -> Likeness | None:
        """Compare with the live model's weights, a few layers of them.

        Args:
            live: By layer, [out, in], any floating type and device; it may have more layers.

        Returns:
            The medians, or None where no layer is in both in the same shape.
        """
        shared = [
            layer for layer, matrix in self.matrices.items() if layer in live and matrix.shape == live[layer].shape
        ]
        chosen = shared[:: max(1, len(shared) // _COMPARED_LAYERS)][:_COMPARED_LAYERS]
        cosines, ratios = [], []
        for layer in chosen:
            ours = self.matrices[layer].dense().flatten()
            theirs = live[layer].detach().to("cpu", torch.float32).flatten()
            our_norm, their_norm = float(ours.norm()), float(theirs.norm())
            cosines.append(float(ours @ theirs) / max(our_norm * their_norm, 1e-20))
            ratios.append(our_norm / max(their_norm, 1e-20))
        return Likeness(median(cosines), median(ratios)) if chosen else None

    def doubt(self, live: Mapping[str, torch.Tensor]) -> str | None:
        """Return what the user should know if the weights are not what they are taken for, or None.

        That is full weights taken for a delta, the reverse, and full weights that were trained on another checkpoint.

        Args:
            live: As in `likeness`.
        """
        likeness = self.likeness(live)
        if likeness is None:
            return None
        if not self.full and likeness.cosine > 0.9 and 0.5 < likeness.norm_ratio < 2:
            return (
                "the file says that it holds differences, but they look like whole weights, and the result will be "
                "wrong. Look for the file's other form, or convert it again."
            )
        if self.full and likeness.norm_ratio < 0.3:
            return (
                "the file should hold whole weights, but they look like differences, and the result will be wrong. "
                "Look for the file's other form, or convert it again."
            )
        if self.full and likeness.cosine < _SAME_CHECKPOINT:
            return (
                f"its weights are unlike the loaded model's (cosine {likeness.cosine:.2f}): they seem to be trained on "
                "another checkpoint. Load that one, or expect a concept that fits this model less well."
            )
        return None


@dataclass(frozen=True)
class ModelShapes:
    """What `Concept.check_against` has to know of the live model.

    Attributes:
        token_widths: Width of the token embeddings by text encoder, ``{"clip_l": 768}``; keys as in `TokenEmbedding`.
        layers: (out, in) of each cross-attention key and value projection, by layer (see
            `alignit.concepts.layer_names`).
        encoder_layers: How many layers the first text encoder has; 0 for one of another kind than SD1's.
        dtype: The type that weights and embeddings will be cast to.
    """

    token_widths: Mapping[str, int]
    layers: Mapping[str, tuple[int, int]]
    encoder_layers: int
    dtype: torch.dtype = torch.float32


class EncoderChange(Hashable, Protocol):
    """A concept's change of the text encoder. It is hashable: what was encoded is found again by it."""

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All that is held."""

    def misfit(self, model: ModelShapes) -> str | None:
        """Return why it cannot be used with a model, a sentence without its subject; None: it can."""

    def applied(self, layers: Sequence[Any]) -> AbstractContextManager[None]:
        """Change the encoder for the length of a block; afterwards it is as it was. Several add up.

        Args:
            layers: The layers of the first text encoder, as transformers has them; empty for one of another kind.
        """


@dataclass(frozen=True, eq=False)
class Concept:
    """A trained concept. Its tensors are on the CPU and own their memory.

    Attributes:
        path: The file it was read from.
        name: The file's name without its extensions; the folder's for a CatVersion file under the name that all have.
        family: The method that trained it.
        tokens: Its token embeddings, in the order of the file. Empty for CatVersion, and for Custom Diffusion
            without a trained token or with the token in a file that was not found.
        weights: Customised key and value weights, or None.
        encoder_change: The change of the text encoder, or None.
        class_word: A class word that the file's place suggests, to be confirmed by the user, or None.
        notes: What the user should know: parts of the file that are not used, files that were not found.
    """

    path: Path
    name: str
    family: Family
    tokens: tuple[TokenEmbedding, ...] = ()
    weights: KeyValueWeights | None = None
    encoder_change: EncoderChange | None = None
    class_word: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def likely_class_words(self) -> tuple[str, ...]:
        """What of the suggested class word a prompt can have, the likeliest first: "colorful teapot", "teapot"."""
        # A folder's name often says more than the class word does.
        words = (self.class_word or "").split()
        return tuple(dict.fromkeys((" ".join(words), words[-1]))) if words else ()

    @property
    def nbytes(self) -> int:
        """Bytes of memory that its tensors take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors())

    def check_against(self, model: ModelShapes) -> None:
        """Check that the concept can be used with a model.

        Raises:
            ConceptFileError: It was trained for another kind of model, lacks layers, or has numbers that the model's
                type cannot hold.
        """
        for token in self.tokens:
            self._check_token(token, model)
        if self.weights is not None:
            self._check_weights(self.weights, model)
        misfit = self.encoder_change.misfit(model) if self.encoder_change is not None else None
        if misfit is not None:
            raise self._misfit(misfit)
        if not all(all_finite(tensor, model.dtype) for tensor in self._tensors()):
            kind = str(model.dtype).removeprefix("torch.")
            raise ConceptFileError(
                self.path,
                f"has numbers too large for {kind}, the type that the model runs in",
                "Run the model in float32 (--no-half in a WebUI)",
            )

    def _check_token(self, token: TokenEmbedding, model: ModelShapes) -> None:
        missing = model.token_widths.keys() - token.vectors.keys()
        if missing:
            raise self._misfit(
                f"has an embedding '{token.name}' for one text encoder, and the loaded model has two",
                "; an embedding for SDXL that was saved without its second half has to be trained or converted again",
            )
        if token.vectors.keys() - model.token_widths.keys():
            raise self._misfit(f"has an embedding '{token.name}' for two text encoders, and the loaded model has one")
        for encoder, width in model.token_widths.items():
            found = token.vectors[encoder].shape[1]
            if found != width:
                raise self._misfit(
                    f"has vectors of width {found} for '{token.name}', and the loaded model's are {width}"
                )

    def _check_weights(self, weights: KeyValueWeights, model: ModelShapes) -> None:
        if not weights.matrices.keys() & model.layers.keys():
            raise self._misfit("has weights for none of the loaded model's layers")
        for layer, matrix in weights.matrices.items():
            if layer not in model.layers:
                raise self._misfit(f"has weights for {layer}, which the loaded model does not have")
            if matrix.shape != model.layers[layer]:
                raise self._misfit(
                    f"has weights of shape {matrix.shape} for {layer}, and the loaded model's are {model.layers[layer]}"
                )
        missing = model.layers.keys() - weights.matrices.keys()
        if weights.full and missing:
            raise self._misfit(
                f"lacks {len(missing)} of the loaded model's {len(model.layers)} layers, the first being "
                f"{min(missing)}",
                ", or look for the complete file",
            )

    def _misfit(self, problem: str, otherwise: str = "") -> ConceptFileError:
        remedy = f"Load the kind of model that it was trained for (SD1, SD2 or SDXL){otherwise}"
        return ConceptFileError(self.path, problem, remedy)

    def _tensors(self) -> chain[torch.Tensor]:
        matrices = self.weights.matrices.values() if self.weights else ()
        return chain(
            (tensor for token in self.tokens for tensor in token.vectors.values()),
            (tensor for matrix in matrices for tensor in matrix.tensors),
            self.encoder_change.tensors if self.encoder_change else (),
        )
