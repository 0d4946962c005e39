"""What is made so far: the pictures, and a line for each in a file that only grows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from evaluation.errors import EvaluationError
from evaluation.lines import add_line, read_lines
from evaluation.plan import Shot


@dataclass(frozen=True)
class Entry:
    """A picture that was made, and its scores."""

    key: str
    number: int
    seed: int
    way: str
    prompt: str
    text: float
    image: float
    note: str = ""


class Record:
    """The folder of a run. A run with other settings has to have another."""

    def __init__(self, folder: Path, settings: dict[str, object]) -> None:
        """Open a folder, and read what it has.

        Raises:
            EvaluationError: It cannot be written, or holds a run with other settings.
        """
        self.folder = folder
        self.entries: dict[str, Entry] = {}
        self._results = folder / "results.jsonl"
        try:
            (folder / "pictures").mkdir(parents=True, exist_ok=True)
            self._check_settings(folder / "settings.json", settings)
            self._results.touch()
            self._read()
        except OSError as error:
            raise EvaluationError(f"{folder} can't be written ({error}): choose another with --output") from None

    @classmethod
    def of_run(cls, folder: Path) -> Record:
        """Open the folder of a run that there is, whatever its settings.

        Raises:
            EvaluationError: There is no run in it, or it cannot be read.
        """
        path = folder / "settings.json"
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EvaluationError(
                f"There is no run in {folder} ({error}): give the folder that python -m evaluation made, its --output"
            ) from None
        return cls(folder, settings)

    def add(self, shot: Shot, picture: Image.Image, entry: Entry) -> None:
        """Keep a picture and its scores.

        Raises:
            EvaluationError: They cannot be written.
        """
        try:
            path = self.picture(shot.key)
            picture.save(path.with_suffix(".new"), "PNG")
            path.with_suffix(".new").replace(path)
            add_line(self._results, asdict(entry))
        except OSError as error:
            raise EvaluationError(f"{self.folder} can't be written any more ({error}): free some space") from None
        self.entries[shot.key] = entry

    def picture(self, key: str) -> Path:
        """Return where a picture is."""
        return self.folder / "pictures" / f"{key}.png"

    def _read(self) -> None:
        for line in read_lines(self._results):
            try:
                entry = Entry(**line)
            except TypeError:
                continue
            if self.picture(entry.key).exists():
                self.entries[entry.key] = entry

    def _check_settings(self, path: Path, settings: dict[str, object]) -> None:
        if path.exists():
            try:
                known = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                raise EvaluationError(f"{path} is damaged: choose another folder with --output") from None
            differing = sorted(key for key in {*known, *settings} if known.get(key) != settings.get(key))
            if differing:
                name = differing[0]
                raise EvaluationError(
                    f"{self.folder} has a run with another {name} ({known.get(name)!r}, now {settings.get(name)!r}): "
                    "choose another folder with --output, or the same settings"
                )
        else:
            path.write_text(json.dumps(settings, indent=1, ensure_ascii=False), encoding="utf-8")
