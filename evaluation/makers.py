"""What makes the pictures: a running WebUI, or a diffusers pipeline."""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.request
import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image

from alignit.diffusers import AlignITError, AlignITWarning
from evaluation.errors import EvaluationError
from evaluation.plan import ALIGNED, CLASS_WORD, Shot, Subject


@dataclass(frozen=True)
class Settings:
    """How pictures are made: their side in pixels, the sampling steps, and the guidance scale."""

    size: int = 512
    steps: int = 50
    guidance: float = 7.5


class Maker(Protocol):
    """Makes pictures."""

    def make(self, shot: Shot, subject: Subject) -> tuple[Image.Image, str]:
        """Return a picture, and what was said about it: empty if all went well.

        Raises:
            EvaluationError: It cannot be made.
        """

    def facts(self) -> dict[str, str]:
        """Return what the report says about the model and the host."""

    def kinds(self, subject: Subject) -> str:
        """Return what kind of concept it is: by which method, with how many vectors.

        Raises:
            EvaluationError: There is no such concept.
        """


class WebUIMaker:
    """A running WebUI with AlignIT installed, started with ``--api``."""

    def __init__(self, address: str, settings: Settings, sampler: str = "DDIM", password: str = "") -> None:
        """Look whether it is there, and has AlignIT.

        Args:
            address: Such as ``http://127.0.0.1:7860``.
            settings: How pictures are made.
            sampler: The sampler's name in the WebUI.
            password: ``user:password``, if it was started with ``--api-auth``.

        Raises:
            EvaluationError: There is no WebUI, or none with an API and AlignIT.
        """
        self._address = address.rstrip("/")
        self._settings = settings
        self._sampler = sampler
        self._headers = {"Content-Type": "application/json"}
        if password:
            self._headers["Authorization"] = "Basic " + base64.b64encode(password.encode()).decode()
        scripts = self._ask("/sdapi/v1/scripts")
        if "alignit" not in [str(name).lower() for name in scripts.get("txt2img", [])]:
            raise EvaluationError(f"The WebUI at {address} has no AlignIT: install it there and restart the WebUI")
        self._model = str(self._ask("/sdapi/v1/options").get("sd_model_checkpoint"))
        self._version = ""  # which a picture says

    def make(self, shot: Shot, subject: Subject) -> tuple[Image.Image, str]:
        """Return a picture, and AlignIT's note about it."""
        settings = self._settings
        answer = self._ask(
            "/sdapi/v1/txt2img",
            {
                "prompt": shot.prompt(subject),
                "seed": shot.seed,
                "width": settings.size,
                "height": settings.size,
                "steps": settings.steps,
                "cfg_scale": settings.guidance,
                "sampler_name": self._sampler,
                "alwayson_scripts": {"AlignIT": {"args": [{"enabled": shot.way == ALIGNED}]}},
            },
        )
        try:
            picture = Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))).convert("RGB")
            said = json.loads(answer["info"])
            info = said["extra_generation_params"]
        except (KeyError, IndexError, ValueError, OSError) as error:
            raise EvaluationError(f"The WebUI at {self._address} answered without a picture ({error!r})") from None
        self._version = str(said.get("version") or "")
        return picture, str(info.get("AlignIT note", ""))

    def facts(self) -> dict[str, str]:
        """Return the checkpoint and the sampler."""
        host = f"AUTOMATIC1111 WebUI {self._version}".strip()
        return {"host": host, "checkpoint": self._model, "sampler": self._sampler}

    def kinds(self, subject: Subject) -> str:
        """Return what AlignIT finds in a prompt of the concept's alone."""
        prompt = f"{subject.mark} {subject.extra}"
        seen = self._ask("/alignit/v1/inspect", {"prompt": prompt})
        try:
            found = [_kind(str(one["method"]), int(one["vectors"])) for one in seen["concepts"]]
            notes = " ".join(str(note) for note in seen["notes"])
        except (KeyError, TypeError, ValueError) as error:
            raise EvaluationError(f"The WebUI at {self._address} answered without concepts ({error!r})") from None
        if not found:
            raise EvaluationError(
                f"AlignIT finds no concept in {prompt!r}: change --mark or --extra. {notes}".rstrip(". ")
            )
        return " and ".join(found)

    def _ask(self, path: str, payload: dict[str, Any] | None = None) -> Any:
        data = None if payload is None else json.dumps(payload).encode()
        request = urllib.request.Request(f"{self._address}{path}", data=data, headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=3600) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise EvaluationError(
                f"The WebUI at {self._address} refused {path} ({error.code}): {_detail(error)}"
            ) from None
        except (OSError, ValueError) as error:
            raise EvaluationError(
                f"No answer from a WebUI at {self._address} ({error}): start it with --api, and go on with the same "
                "command"
            ) from None


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        answer = json.load(error)
        return str(answer.get("detail") or answer.get("errors") or answer)[:500]
    except ValueError:
        return str(error.reason)


class DiffusersMaker:
    """A diffusers pipeline, with AlignIT's host for it."""

    def __init__(
        self, pipe: Any, aligned: Any, settings: Settings, name: str, method: str = "", vectors: int = 0
    ) -> None:
        """Take what makes the pictures.

        Args:
            pipe: The pipeline.
            aligned: `AlignIT` on it.
            settings: How pictures are made.
            name: The model's name.
            method: By which method the concept was trained.
            vectors: How many vectors of its own it has.
        """
        self._pipe = pipe
        self._aligned = aligned
        self._settings = settings
        self._name = name
        self._kinds = _kind(method, vectors)

    def make(self, shot: Shot, subject: Subject) -> tuple[Image.Image, str]:
        """Return a picture, and AlignIT's warnings."""
        settings = self._settings
        arguments: dict[str, Any] = {
            "num_inference_steps": settings.steps,
            "guidance_scale": settings.guidance,
            "height": settings.size,
            "width": settings.size,
            "generator": torch.Generator().manual_seed(shot.seed),
        }
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", AlignITWarning)
            try:
                if shot.way == CLASS_WORD:
                    made = self._pipe(shot.prompt(subject), **arguments)
                else:
                    made = self._aligned(shot.prompt(subject), align=shot.way == ALIGNED, **arguments)
            except AlignITError as error:
                raise EvaluationError(str(error)) from None
        said = [str(one.message) for one in caught if issubclass(one.category, AlignITWarning)]
        return made.images[0], " ".join(said)

    def facts(self) -> dict[str, str]:
        """Return the model and the scheduler."""
        return {"host": "diffusers", "checkpoint": self._name, "sampler": type(self._pipe.scheduler).__name__}

    def kinds(self, subject: Subject) -> str:  # noqa: ARG002  # it has one concept
        """Return the concept's method and how many vectors it has."""
        return self._kinds


def _kind(method: str, vectors: int) -> str:
    return method if not vectors else f"{method}, {vectors} vector{'s' * (vectors > 1)}"
