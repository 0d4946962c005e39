"""Reads JSON from strangers: bounded, and with nothing said twice."""

from __future__ import annotations

import json
from collections.abc import Callable

_MAX_DIGITS = 20  # Python's conversion of long numbers takes quadratic time
_MAX_PARTS = 2**18  # a part of 4 bytes can take 200 in memory; 75 vectors for SDXL are 153,600


class JsonError(ValueError):
    """Text that is not JSON, or is not fit to be read."""


def parse_json(text: bytes | str, convert: Callable[[dict[str, object]], object] | None = None) -> object:
    """Parse JSON text whose length the caller has bounded.

    Args:
        text: The text; bytes are UTF-8.
        convert: Gives what to put in the place of each object.

    Raises:
        JsonError: It is no JSON, too deep, has too many parts, or an object has a name twice.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if _has_many_parts(raw):
        raise JsonError("too many parts")

    def unique(pairs: list[tuple[str, object]]) -> object:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise JsonError("a name is there twice")
        return convert(result) if convert else result

    def whole(digits: str) -> int:
        if len(digits) > _MAX_DIGITS:
            raise JsonError("a number is too long")
        return int(digits)

    try:
        # Left alone, json would guess at UTF-16 and UTF-32, in which the parts are not what was counted.
        return json.loads(raw.decode("utf-8-sig", "surrogatepass"), object_pairs_hook=unique, parse_int=whole)
    except JsonError:
        raise
    except (ValueError, RecursionError) as error:
        raise JsonError("not JSON") from error


def _has_many_parts(text: bytes) -> bool:
    """Say whether there are more values and strings than is fit, without making them."""
    bare = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 2 * _MAX_PARTS:
        return True
    # Every other piece is inside a string, where these signs mean nothing.
    outside = bare.split(b'"')[::2]
    return sum(piece.count(sign) for piece in outside for sign in (b",", b"[", b"{")) > _MAX_PARTS
