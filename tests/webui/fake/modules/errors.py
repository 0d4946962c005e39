from __future__ import annotations

import sys

reported: list[tuple[str, BaseException | None]] = []
exception_records: list[dict[str, object]] = []


def report(message: str, *, exc_info: bool = False) -> None:
    reported.append((message, sys.exc_info()[1] if exc_info else None))


def get_exceptions() -> list[dict[str, object]]:
    return list(exception_records)
