"""One report for whoever looks for a fault: versions, settings, concepts, the last notes and failures.

It is made to be posted. Unless asked for, it holds no prompt, no concept's name and no path of the user's own folder:
what a note or an error quotes is left out too, as it was typed by the user.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio
import torch

from alignit import __version__
from alignit.concepts.concept import Family
from alignit.webui.host import host
from alignit.webui.host.recent import RECENT, RecentFailure, RecentNote
from alignit.webui.networks.networks import methods
from alignit.webui.networks.table import NETWORKS
from alignit.webui.settings import settings
from alignit.webui.ui.installed import installed
from alignit.webui.ui.redaction import without_quoted, without_user, without_words, words_of


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        versions: Of AlignIT, the host, Python, torch and gradio.
        settings: AlignIT's settings, by name.
        concepts: How many concepts are installed, by method.
        fits: How many embeddings fit the loaded model.
        names: The names of the concepts by method, where asked for.
        notes: The last notes, the newest last.
        failures: The last exceptions, the newest last.
    """

    versions: dict[str, str]
    settings: dict[str, Any]
    concepts: dict[str, int]
    fits: int
    names: dict[str, list[str]] | None
    notes: list[RecentNote]
    failures: list[RecentFailure]

    @property
    def text(self) -> str:
        """The report as text."""
        return "\n".join(
            [
                *(f"{name}: {version}" for name, version in self.versions.items()),
                *_section("Settings", (f"{name}: {value}" for name, value in self.settings.items())),
                *_section("Concepts", self._concepts()),
                *_section("Last notes", self._notes()),
                *_section("Last errors", self._failures()),
            ]
        )

    def _concepts(self) -> Iterator[str]:
        for method, count in self.concepts.items():
            names = f": {', '.join(self.names[method])}" if self.names and self.names[method] else ""
            fits = f", of which {self.fits} for the loaded model" if method == Family.TEXTUAL_INVERSION.value else ""
            yield f"{method}: {count}{fits}{names}"

    def _notes(self) -> Iterator[str]:
        for note in self.notes:
            yield note.text
            yield from (f"    prompt: {prompt}" for prompt in note.prompts)

    def _failures(self) -> Iterator[str]:
        for failure in self.failures:
            yield failure.doing
            yield from (f"    {line}" for line in (*failure.frames, *failure.error.splitlines()))


def _section(title: str, lines: Iterable[str]) -> list[str]:
    return ["", f"{title}:", *(f"  {line}" for line in list(lines) or ["none"])]


def make_report(names: bool = False, prompts: bool = False, paths: bool = False) -> Report:
    """Make the report of this moment.

    Args:
        names: Whether concepts are named.
        prompts: Whether the prompts of the last notes stand beside them, and what notes and errors quote in them.
        paths: Whether paths stand there as they are, the name of the user's own folder with them.
    """
    found = list(installed())
    by_method = {method: [one.name for one in found if one.method == method] for method in methods()[:-1]}
    notes, failures = RECENT.notes, RECENT.failures
    known = [] if names else [one.name for one in found]
    typed = [] if prompts else list(words_of(prompt for note in notes for prompt in note.prompts))
    hidden = without_words([*known, *typed])

    def path(text: str) -> str:
        return text if paths else without_user(text)

    def said(text: str) -> str:
        return path(hidden(text if prompts else without_quoted(text)))

    versions = {
        "AlignIT": __version__,
        "Host": host().version,
        "Python": f"{platform.python_version()} on {platform.system()}",
        "torch": str(torch.__version__),
        "gradio": str(gradio.__version__),
    }
    return Report(
        versions,
        {
            name: path(value) if isinstance(value, str) else value
            for name, value in settings(network.folder.setting for network in NETWORKS).items()
        },
        {method: len(of_method) for method, of_method in by_method.items()},
        sum(one.fits is True for one in found),
        by_method if names else None,
        [RecentNote(said(note.text), note.prompts if prompts else ()) for note in notes],
        [
            RecentFailure(said(failure.doing), said(failure.error), tuple(path(frame) for frame in failure.frames))
            for failure in failures
        ],
    )


def report_text() -> str:
    """Return the report as text, for the panel; the error in its place where it cannot be made."""
    try:
        return make_report().text
    except Exception as error:
        host().life.report("AlignIT: error while making the report")
        return f"AlignIT: {__version__}\nNo report: {type(error).__name__}"
