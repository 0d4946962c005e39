from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

registered: dict[str, list[Callable[..., Any]]] = {}


def call(kind: str, *arguments: Any) -> None:
    for callback in registered.get(kind, []):
        callback(*arguments)


def on_ui_settings(callback: Callable[[], Any]) -> None:
    registered.setdefault("ui_settings", []).append(callback)


def on_before_ui(callback: Callable[[], Any]) -> None:
    registered.setdefault("before_ui", []).append(callback)


def on_app_started(callback: Callable[[Any, Any], Any]) -> None:
    registered.setdefault("app_started", []).append(callback)


def on_cfg_denoiser(callback: Callable[[Any], Any]) -> None:
    registered.setdefault("cfg_denoiser", []).append(callback)


def on_before_image_saved(callback: Callable[[Any], Any]) -> None:
    registered.setdefault("before_image_saved", []).append(callback)


@dataclass
class BeforeTokenCounterParams:
    prompt: str
    steps: int
    styles: list[str]
    is_positive: bool = True


def on_before_token_counter(callback: Callable[[BeforeTokenCounterParams], Any]) -> None:
    registered.setdefault("before_token_counter", []).append(callback)


def before_token_counter_callback(params: BeforeTokenCounterParams) -> None:
    call("before_token_counter", params)
