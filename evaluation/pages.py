"""HTML pages from the templates beside this file; what is put into them is text, and cannot become code."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    keep_trailing_newline=True,
)


def render(template: str, **values: object) -> str:
    """Return the page that a template makes of the values."""
    return _ENVIRONMENT.get_template(template).render(**values)
