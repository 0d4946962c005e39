"""Text and image alignment by CLIP, as the paper measures them; CLIP and the segmenter are those of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from transformers import AutoProcessor, CLIPModel, CLIPSegForImageSegmentation

from evaluation.errors import EvaluationError

CLIP = "openai/clip-vit-base-patch32"
SEGMENTER = "CIDAS/clipseg-rd64-refined"
_GREY = 127  # what stands around a masked object


@dataclass(frozen=True)
class Scores:
    """Text and image alignment of a picture; higher is better."""

    text: float
    image: float


class Scorer(Protocol):
    """Scores pictures of one concept."""

    def score(self, picture: Image.Image, text: str) -> Scores:
        """Return how well a picture fits a text, and the concept."""

    def facts(self) -> dict[str, str]:
        """Return what the report says about the scorer."""


class Masker(Protocol):
    """Finds an object in pictures."""

    def mask(self, picture: Image.Image, words: str) -> Image.Image | None:
        """Return where the picture shows the words, in white; None where it does not show them."""


class Segmenter:
    """CLIPSeg: finds what words name."""

    def __init__(self, name: str = SEGMENTER, device: str = "cpu", threshold: float = 0.4) -> None:
        """Load the model, by its name or from a folder.

        Raises:
            EvaluationError: It cannot be loaded.
        """
        self._model, self._processor = _load(CLIPSegForImageSegmentation, name, device)
        self._threshold = threshold

    @torch.no_grad()
    def mask(self, picture: Image.Image, words: str) -> Image.Image | None:
        """Return where the picture shows the words, in white; None where it does not show them."""
        inputs = self._processor(text=[words], images=[picture], return_tensors="pt", padding=True)
        logits = self._model(**inputs.to(self._model.device)).logits
        found = logits.reshape(logits.shape[-2:]).sigmoid() > self._threshold
        if not found.any():
            return None
        mask = Image.fromarray(found.to("cpu", torch.uint8).mul(255).numpy(), "L")
        return mask.resize(picture.size, Image.Resampling.BILINEAR)


class ClipScorer:
    """CLIP: text alignment is the cosine of picture and text, image alignment the mean cosine with the references.

    With a masker, image alignment is of the object alone: around it, all pictures are grey. A picture that does not
    show the object at all has image alignment 0.
    """

    def __init__(
        self,
        references: Sequence[Image.Image],
        class_word: str,
        masker: Masker | None = None,
        name: str = CLIP,
        device: str = "cpu",
    ) -> None:
        """Load CLIP, by its name or from a folder, and look at the references.

        Raises:
            EvaluationError: It cannot be loaded; there are no references, or no object in any of them.
        """
        if not references:
            raise EvaluationError("There are no reference pictures of the concept: give their folder with --references")
        self._model, self._processor = _load(CLIPModel, name, device)
        self._class_word, self._masker, self._name = class_word, masker, name
        objects = [one for one in map(self._object, references) if one is not None]
        if not objects:
            raise EvaluationError(
                f"The segmenter finds no {class_word!r} in the reference pictures: give another --class-word, or "
                "--mask none"
            )
        self._references = self._of_pictures(objects)

    def score(self, picture: Image.Image, text: str) -> Scores:
        """Return how well a picture fits a text, and the references."""
        found = self._object(picture)
        image = 0.0
        if found is not None:
            image = float((self._of_pictures([found]) @ self._references.T).mean())
        return Scores(float((self._of_pictures([picture]) @ self._of_text(text).T).item()), image)

    def facts(self) -> dict[str, str]:
        """Return the names of CLIP and of the masker."""
        masked = "the whole picture" if self._masker is None else f"the {self._class_word} alone, by CLIPSeg"
        return {"CLIP": self._name, "image alignment": masked}

    def _object(self, picture: Image.Image) -> Image.Image | None:
        picture = picture.convert("RGB")
        if self._masker is None:
            return picture
        mask = self._masker.mask(picture, self._class_word)
        if mask is None:
            return None
        return Image.composite(picture, Image.new("RGB", picture.size, (_GREY,) * 3), mask)

    @torch.no_grad()
    def _of_pictures(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        inputs = self._processor(images=list(pictures), return_tensors="pt").to(self._model.device)
        return _unit(self._model.get_image_features(**inputs))

    @torch.no_grad()
    def _of_text(self, text: str) -> torch.Tensor:
        inputs = self._processor(text=[text], return_tensors="pt", padding=True, truncation=True)
        return _unit(self._model.get_text_features(**inputs.to(self._model.device)))


def _unit(features: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(features.float(), dim=-1)


def _load(kind: Any, name: str, device: str) -> tuple[Any, Any]:
    try:
        return kind.from_pretrained(name).to(device).eval(), AutoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{name} can't be loaded: {error}. Give a name or a folder that has it") from None
