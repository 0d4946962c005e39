"""The ``.json`` file beside a concept's file, in which WebUIs keep what a user noted about it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LIMIT = 2**20


class SidecarError(ValueError):
    """A file that cannot be read or written; the message names it and the mend."""


def sidecar_path(concept_file: str | os.PathLike[str]) -> Path:
    """Return the path of the ``.json`` file beside a concept's file."""
    return Path(concept_file).with_suffix(".json")


def read_sidecar(concept_file: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what is noted beside a concept's file, empty where there is nothing.

    Raises:
        SidecarError: The file beside it cannot be read, or is no metadata.
    """
    path = sidecar_path(concept_file)
    try:
        if path.stat().st_size > _LIMIT:
            raise SidecarError(f"{path.name} is larger than 1 MiB, which no metadata file is: check it")
        metadata = json.loads(path.read_text(encoding="utf-8-sig"))  # some editors put a mark at the beginning
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SidecarError(f"{path.name} cannot be read ({error.strerror}): check the file") from None
    except SidecarError:
        raise
    except (ValueError, RecursionError):
        raise SidecarError(f"{path.name} is not valid JSON: mend or delete it") from None
    if not isinstance(metadata, dict):
        raise SidecarError(f"{path.name} holds no metadata, which is an object in JSON: mend or delete it")
    return metadata


def update_sidecar(concept_file: str | os.PathLike[str], changes: Mapping[str, Any]) -> None:
    """Note something beside a concept's file, and keep whatever else is there.

    Args:
        concept_file: The concept's file.
        changes: Values by name; None takes one out.

    Raises:
        SidecarError: The file beside it is damaged or cannot be written.
    """
    path = sidecar_path(concept_file)
    metadata = {name: value for name, value in {**read_sidecar(path), **changes}.items() if value is not None}
    try:
        # Through a second file: an interrupted write must not cost the user the notes that are in the first.
        written = path.with_name(f"{path.name}.tmp")
        written.write_text(json.dumps(metadata, indent=4, ensure_ascii=False), encoding="utf8")
        written.replace(path)
    except OSError as error:
        raise SidecarError(f"{path.name} cannot be written ({error.strerror}): check its folder") from None
