"""AlignIT's own JSON API, beside the WebUI's: what concepts there are, and what a prompt becomes.

Its schema stands in the WebUI's ``/docs``. It is there with the WebUI's own API, ``--api``, behind the same password.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException
from modules import shared
from modules.call_queue import queue_lock
from pydantic import BaseModel, Extra, Field

from alignit.class_words import ClassWordError, remembered
from alignit.controls import ControlsError
from alignit.webui.catversion import ADAPTERS
from alignit.webui.deltas import DELTAS
from alignit.webui.embeddings import all_embeddings
from alignit.webui.inspection import InspectionError, inspect_prompt

_PREFIX = "/alignit/v1"
_MAX_TEXT = 100_000  # characters; the host has no use for longer prompts, and would take minutes to read one
_FILES = (DELTAS, "Custom Diffusion", "<delta:{}:1>"), (ADAPTERS, "CatVersion", "<catversion:{}>")


class InstalledConcept(BaseModel):  # type: ignore[misc]
    """A concept that is installed."""

    name: str = Field(title="Name", description="How it is named in prompts")
    method: str = Field(title="Method", description="textual inversion, Custom Diffusion or CatVersion")
    prompt: str = Field(title="Prompt", description="What to write into a prompt")
    class_word: str | None = Field(title="Class word", description="The class word remembered with it")
    fits: bool | None = Field(title="Fits", description="Whether it fits the loaded model; null: known once it is used")


class Prompt(BaseModel):  # type: ignore[misc]
    """A prompt to look at."""

    class Config:
        """What pydantic is told."""

        extra = Extra.forbid

    prompt: str = Field(title="Prompt", description="As it would be sent to txt2img", max_length=_MAX_TEXT)
    class_words: str = Field("", title="Class words", description="As the script's argument", max_length=_MAX_TEXT)
    controls: str = Field("", title="Controls", description="As the script's argument", max_length=_MAX_TEXT)


class SeenConcept(BaseModel):  # type: ignore[misc]
    """A concept that a prompt holds."""

    name: str
    method: str = Field(description="textual inversion, Custom Diffusion, CatVersion or words")
    class_word: str
    source: str = Field(description="Where the class word is from: prompt, panel, remembered, suggested or file")
    vectors: int = Field(description="How many token vectors it has")
    options: str = Field(description="Its options, as written")


class SeenChunk(BaseModel):  # type: ignore[misc]
    """A chunk of a text as tokens, in the order of their rows; the start token is row 0."""

    base: list[str] = Field(description="The base prompt")
    dummies: dict[str, list[str]] = Field(description="The dummy prompt of each concept")
    rows: dict[str, list[int]] = Field(description="The rows at which each concept is put in")


class Inspection(BaseModel):  # type: ignore[misc]
    """What a prompt holds."""

    concepts: list[SeenConcept]
    texts: dict[str, list[SeenChunk]] = Field(
        description="The chunks of each text that is encoded for the prompt, over AND and prompt editing"
    )
    suggestions: dict[str, list[str]] = Field(description="The nearest nouns to each concept without a class word")
    notes: list[str] = Field(description="What is in the way, and what to do about it")


def add_routes(_demo: Any, app: FastAPI) -> None:
    """Add the routes; the host calls this once its application has started."""
    if not getattr(shared.cmd_opts, "api", False):
        return
    dependencies = _authentication(app)
    app.add_api_route(
        f"{_PREFIX}/concepts",
        concepts,
        methods=["GET"],
        response_model=list[InstalledConcept],
        dependencies=dependencies,
        tags=["AlignIT"],
        summary="List the concepts that are installed",
    )
    app.add_api_route(
        f"{_PREFIX}/inspect",
        inspect,
        methods=["POST"],
        response_model=Inspection,
        dependencies=dependencies,
        tags=["AlignIT"],
        summary="Look at a prompt: its concepts, their class words, base and dummy prompts as tokens",
    )


def concepts() -> list[InstalledConcept]:
    """List the embeddings, Custom Diffusion files and CatVersion adapters that are installed."""
    found = [
        InstalledConcept(
            name=embedding.name,
            method="textual inversion",
            prompt=embedding.name,
            class_word=_remembered(embedding.filename),
            fits=fits,
        )
        for embedding, fits in all_embeddings()
    ]
    for library, method, prompt in (
        (DELTAS, "Custom Diffusion", "<delta:{}:1>"),
        (ADAPTERS, "CatVersion", "<catversion:{}>"),
    ):
        found += [
            InstalledConcept(
                name=name, method=method, prompt=prompt.format(name), class_word=_remembered(path), fits=None
            )
            for name, path in library.named().items()
        ]
    return found


def inspect(request: Prompt) -> dict[str, Any]:
    """Look at a prompt as a generation would, without making a picture."""
    try:
        # The text encoder's state is a global of the host, and a generation may be at it.
        with queue_lock:
            return asdict(inspect_prompt(request.prompt, request.class_words, request.controls))
    except (InspectionError, ControlsError) as error:
        raise HTTPException(422, f"AlignIT: {error}") from None


def _remembered(file: str | Path | None) -> str | None:
    try:
        return remembered(file) if file else None
    except ClassWordError:
        return None  # a prompt that uses the concept says what is wrong with the file


def _authentication(app: FastAPI) -> list[Any]:
    """Return what the host's own routes depend on: the password of --api-auth, where one is set."""
    route = next((route for route in app.router.routes if getattr(route, "path", "") == "/sdapi/v1/options"), None)
    return list(getattr(route, "dependencies", []))
