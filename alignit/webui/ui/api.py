"""AlignIT's own JSON API, beside the WebUI's: concepts, what a prompt becomes, the last attention maps, and a report.

Its schema stands in the WebUI's ``/docs``. It is there with the WebUI's own API, ``--api``, behind the same password.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from enum import Enum
from typing import Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Extra, Field

from alignit import __version__
from alignit.algorithm.controls import Controls
from alignit.algorithm.layers import Layers
from alignit.algorithm.options import ControlsError, options_of
from alignit.maps.pictures import grey
from alignit.maps.result import HeatMap, NoMapError
from alignit.prompt.class_words import remembered_or_none
from alignit.webui.generation.arguments import Arguments, declaration
from alignit.webui.generation.inspection import InspectionError, check_brackets, inspect_prompt
from alignit.webui.generation.maps import KEPT, KeptPicture
from alignit.webui.host import host
from alignit.webui.networks.networks import methods
from alignit.webui.ui.installed import installed
from alignit.webui.ui.report import make_report

_PREFIX = "/alignit/v1"
_MAX_TEXT = 100_000  # characters; the host has no use for longer prompts, and would take minutes to read one
_MAX_BRACKETS = 60  # with prompt editing: some seconds, in which nobody else's picture is made


def _one_of(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


class InstalledConcept(BaseModel):  # type: ignore[misc]
    """A concept that is installed."""

    name: str = Field(title="Name", description="How it is named in prompts")
    method: str = Field(title="Method", description=_one_of(methods()[:-1]))
    prompt: str = Field(title="Prompt", description="What to write into a prompt")
    class_word: str | None = Field(title="Class word", description="The class word remembered with it")
    fits: bool | None = Field(title="Fits", description="Whether it fits the loaded model; null: known once it is used")


def _as_argument(name: str) -> Any:
    declared = declaration(name)
    return Field("", title=declared.label, description=declared.description, max_length=_MAX_TEXT)


class Prompt(BaseModel):  # type: ignore[misc]
    """A prompt to look at."""

    class Config:
        """What pydantic is told."""

        extra = Extra.forbid

    prompt: str = Field(title="Prompt", description="As it would be sent to txt2img", max_length=_MAX_TEXT)
    class_words: str = _as_argument("class_words")
    controls: str = _as_argument("controls")


class SeenConcept(BaseModel):  # type: ignore[misc]
    """A concept that a prompt holds."""

    name: str
    method: str = Field(description=_one_of(methods()))
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


class MapFormat(str, Enum):
    """How a map is sent."""

    PNG = "png"
    VALUES = "values"


class SeenToken(BaseModel):  # type: ignore[misc]
    """A token of a word."""

    text: str
    row: int = Field(description="Its row of the conditioning; row 0 is the first chunk's start token")


class WordMap(BaseModel):  # type: ignore[misc]
    """The attention map of a word, or of a token of it."""

    word: str
    tokens: list[SeenToken]
    peak: float = Field(description="The greatest probability in the map")
    mean: float = Field(description="The mean probability")
    png: str | None = Field(description="The map in base64: PNG, grey, from black at its least to white at its peak")
    values: list[list[float]] | None = Field(description="The probabilities, row by row: height lists of width numbers")


class PictureMaps(BaseModel):  # type: ignore[misc]
    """The attention maps of a picture."""

    picture: int = Field(description="Its number in the generation, from 0")
    prompt: str
    seed: int
    infotext: str = Field(description="Its info text, which says how it was made")
    height: int = Field(description="Height of the maps: that of the latent picture")
    width: int
    layers: list[str] = Field(description="The blocks of the UNet in which the attention was recorded")
    maps: list[WordMap]


class LastMaps(BaseModel):  # type: ignore[misc]
    """The attention maps of the last generation that had them on."""

    pictures: list[PictureMaps]


class SeenOption(BaseModel):  # type: ignore[misc]
    """An option of a concept, or several that belong together."""

    written: str = Field(description="How it is written")
    strength: str = Field(description="What s is with it: 0 is the class word alone, 1 the paper; may be empty")
    meaning: str


class About(BaseModel):  # type: ignore[misc]
    """What AlignIT is, and what its script takes."""

    version: str = Field(description="AlignIT's version")
    arguments: dict[str, Any] = Field(description="The script's arguments by name, in their order, as JSON Schema")
    options: list[SeenOption] = Field(description="The options that controls, class words and prompts take")


class ReportFormat(str, Enum):
    """How the report is sent."""

    JSON = "json"
    TEXT = "text"


class SaidNote(BaseModel):  # type: ignore[misc]
    """A note about a generation."""

    text: str
    prompts: list[str] = Field(description="The generation's prompts, where asked for")


class Failure(BaseModel):  # type: ignore[misc]
    """An exception that AlignIT caught."""

    doing: str = Field(description="What it was doing")
    error: str = Field(description="The exception")
    frames: list[str] = Field(description="Where it was raised, the innermost last")


class SentReport(BaseModel):  # type: ignore[misc]
    """A report for whoever looks for a fault."""

    versions: dict[str, str]
    settings: dict[str, Any] = Field(description="AlignIT's settings")
    concepts: dict[str, int] = Field(description="How many concepts are installed, by method")
    fits: int = Field(description="How many embeddings fit the loaded model")
    names: dict[str, list[str]] | None = Field(description="The concepts by method, where asked for")
    notes: list[SaidNote] = Field(description="AlignIT's last notes, the newest last")
    failures: list[Failure] = Field(description="The last exceptions that it caught, the newest last")


class _TextRoute(APIRoute):  # type: ignore[misc]
    """A route that answers a body with what no text holds, of which no answer could be made either."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Any]]:
        """See FastAPI's class."""
        handle = super().get_route_handler()

        async def checked(request: Request) -> Any:
            body = await request.body()
            try:
                json.dumps(json.loads(body), ensure_ascii=False).encode()
            except UnicodeEncodeError:
                said = "AlignIT: the request holds half a character (a lone surrogate): write it whole, or as UTF-8"
                return JSONResponse({"detail": said}, 422)
            except (ValueError, RecursionError):
                pass  # no JSON, which is told of as for any route
            return await handle(request)

        return checked


def add_routes(app: FastAPI) -> None:
    """Add the routes; the host calls this once its application has started."""
    if not host().options.flag("api", False):
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
    app.router.add_api_route(
        f"{_PREFIX}/inspect",
        inspect,
        route_class_override=_TextRoute,
        methods=["POST"],
        response_model=Inspection,
        dependencies=dependencies,
        tags=["AlignIT"],
        summary="Look at a prompt: its concepts, their class words, base and dummy prompts as tokens",
    )
    app.add_api_route(
        f"{_PREFIX}/about",
        about,
        methods=["GET"],
        response_model=About,
        dependencies=dependencies,
        tags=["AlignIT"],
        summary="Get AlignIT's version, and what its script takes",
    )
    app.add_api_route(
        f"{_PREFIX}/report",
        report,
        methods=["GET"],
        response_model=SentReport,
        dependencies=dependencies,
        tags=["AlignIT"],
        summary="Get a report to post with a question: versions, settings, the last notes and exceptions",
    )
    app.add_api_route(
        f"{_PREFIX}/attention-maps",
        attention_maps,
        methods=["GET"],
        response_model=LastMaps,
        dependencies=dependencies,
        tags=["AlignIT"],
        summary="Get the attention maps of the last generation that had them on",
        responses={
            404: {"description": "There are none, or not of this picture, word or layer; the detail says which"}
        },
    )


def concepts() -> list[InstalledConcept]:
    """List the embeddings, Custom Diffusion files and CatVersion adapters that are installed."""
    return [
        InstalledConcept(
            name=one.name,
            method=one.method,
            prompt=one.prompt,
            class_word=remembered_or_none(one.file),
            fits=one.fits,
        )
        for one in installed()
    ]


def inspect(request: Prompt) -> dict[str, Any]:
    """Look at a prompt as a generation would, without making a picture."""
    try:
        check_brackets(request.prompt, _MAX_BRACKETS, "")
        # The text encoder's state is a global of the host, and a generation may be at it.
        with host().life.queue:
            return asdict(inspect_prompt(request.prompt, request.class_words, request.controls))
    except (InspectionError, ControlsError) as error:
        raise HTTPException(422, f"AlignIT: {error}") from None


def about() -> About:
    """Get AlignIT's version, and what its script takes."""
    options = [asdict(row) for option in options_of(Controls) for row in option.documented]
    return About(version=__version__, arguments=Arguments.schema(), options=options)


_REPORT_FORMAT = Query(ReportFormat.JSON, alias="format", description="json, or text as the panel's button copies it")


def report(
    request: Request,
    names: bool = Query(False, description="Name the concepts"),
    prompts: bool = Query(False, description="With the prompts of the last notes, and what these quote"),
    paths: bool = Query(False, description="With whole paths"),
    report_format: ReportFormat = _REPORT_FORMAT,
) -> Any:
    """Get a report to post with a question; no prompts, names or paths of the user's folder unless asked for."""
    _check_query(request, ("names", "prompts", "paths", "format"))
    made = make_report(names, prompts, paths)
    return PlainTextResponse(made.text) if report_format is ReportFormat.TEXT else asdict(made)


_FORMAT = Query(MapFormat.PNG, alias="format", description="png or values")


def attention_maps(
    request: Request,
    picture: int | None = Query(None, ge=0, description="Number of the picture in the generation; all without it"),
    word: str | None = Query(None, max_length=1000, description="Words, with commas between them; all without it"),
    layers: str = Query("", max_length=1000, description="Of the layers that were recorded: down mid, /2, in04"),
    tokens: bool = Query(False, description="A map for each token, and not for each word"),
    map_format: MapFormat = _FORMAT,
) -> LastMaps:
    """Get the attention maps of the last generation that had them on."""
    _check_query(request, ("picture", "word", "layers", "tokens", "format"))
    kept = KEPT.pictures
    if not kept:
        raise HTTPException(404, "AlignIT: there are no attention maps yet: make a picture with attention_maps on")
    if picture is not None and picture not in kept:
        numbers = ", ".join(map(str, kept))
        raise HTTPException(
            404, f"AlignIT: there are no attention maps of picture {picture}: there are those of {numbers}"
        )
    chosen = kept if picture is None else {picture: kept[picture]}
    try:
        in_layers = Layers.parse(layers) if layers.strip() else None
        words = None if word is None else [part.strip() for part in word.split(",") if part.strip()]
        return LastMaps(
            pictures=[
                _picture_maps(number, item, words, in_layers, tokens, map_format) for number, item in chosen.items()
            ]
        )
    except ControlsError as error:
        raise HTTPException(422, f"AlignIT: {error}") from None
    except NoMapError as error:
        raise HTTPException(404, f"AlignIT: {error}") from None


def _check_query(request: Request, known: Sequence[str]) -> None:
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise HTTPException(422, f"AlignIT: there is no parameter '{unknown[0]}': there are {', '.join(known)}")


def _picture_maps(
    number: int, kept: KeptPicture, words: list[str] | None, layers: Layers | None, tokens: bool, map_format: MapFormat
) -> PictureMaps:
    maps = kept.maps
    found: list[HeatMap] = []
    for word in maps.words if words is None else words:
        found += maps.token_maps(word, layers) if tokens else [maps.heat_map(word, layers)]
    height, width = maps.size
    return PictureMaps(
        picture=number,
        prompt=kept.prompt,
        seed=kept.seed,
        infotext=kept.infotext,
        height=height,
        width=width,
        layers=[place.block for place in maps.places if layers is None or layers.include_place(place)],
        maps=[_word_map(item, map_format) for item in found],
    )


def _word_map(heat_map: HeatMap, map_format: MapFormat) -> WordMap:
    png = io.BytesIO()
    if map_format is MapFormat.PNG:
        grey(heat_map.relative).save(png, "png")
    return WordMap(
        word=heat_map.word,
        tokens=[SeenToken(text=token.text, row=token.row) for token in heat_map.tokens],
        peak=heat_map.peak,
        mean=float(heat_map.values.mean()),
        png=base64.b64encode(png.getvalue()).decode() if png.getvalue() else None,
        values=heat_map.values.tolist() if map_format is MapFormat.VALUES else None,
    )


def _authentication(app: FastAPI) -> list[Any]:
    """Return what the host's own routes depend on: the password of --api-auth, where one is set."""
    route = next((route for route in app.router.routes if getattr(route, "path", "") == "/sdapi/v1/options"), None)
    return list(getattr(route, "dependencies", []))
