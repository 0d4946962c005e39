"""Side by side: each picture made three times with the same seed, and a grid of them.

The host's own loop makes them: a comparison repeats each of its batches, once for each way of making the picture, so
that progress, interruption, hires fix and saving are the host's. It has a job for each of the ways, and puts the one to
work whose batch is next.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any, Protocol

from PIL import Image

from alignit.algorithm.controls import CLASS_WORD
from alignit.patches import Replaced
from alignit.webui.generation.arguments import Arguments
from alignit.webui.generation.infotext import take_info, tidy_used
from alignit.webui.generation.inspection import InspectionError, has_concepts
from alignit.webui.generation.job import Job
from alignit.webui.generation.maps import script_runs
from alignit.webui.generation.notes import Notes
from alignit.webui.host import host

_FAILED = "An error while comparing; the console has the details. Not all pictures are what they ought to be."
_REPEATED = (
    "all_prompts",
    "all_negative_prompts",
    "all_seeds",
    "all_subseeds",
    "all_hr_prompts",
    "all_hr_negative_prompts",
)


@dataclass(frozen=True)
class _Way:
    """A way of making the pictures.

    Attributes:
        label: What stands over its column of the grid.
        words: Gives what stands below that, from the concepts' class words by name.
        suffix: What its files' names end with.
        arguments: Gives its arguments from those of the panel. A picture's info holds these.
    """

    label: str
    words: Callable[[Mapping[str, str]], str]
    suffix: str
    arguments: Callable[[Arguments], Arguments]


_WAYS = (
    _Way(
        "Class word alone",
        lambda words: ", ".join(dict.fromkeys(words.values())),
        "class-word",
        lambda panel: Arguments(True, panel.class_words, strength=0.0, controls=CLASS_WORD),
    ),
    _Way("Concept alone", ", ".join, "concept", lambda _panel: Arguments()),
    _Way(
        "AlignIT",
        lambda words: ", ".join(f"{name}={word}" for name, word in words.items()),
        "alignit",
        lambda panel: replace(panel, compare=False),
    ),
)
_ALIGNED = len(_WAYS) - 1


@dataclass(frozen=True)
class _Made:
    """A picture that the host made.

    Attributes:
        position: How many it made before.
        complete: Whether it was not interrupted or skipped.
        prompt: Its prompt.
        seed: Its seed.
        label: What stands beside its row of the grid.
    """

    position: int
    complete: bool
    prompt: str
    seed: int
    label: str


class Jobs(Protocol):
    """Makes jobs for a generation, and puts them to work."""

    def new_job(self, arguments: Arguments) -> Job:
        """Make a job."""

    def put_to_work(self, job: Job | None) -> None:
        """Have a job make the next pictures, and no other one; None: they are the host's own."""

    def count_batches(self, factor: int) -> None:
        """Tell the progress bar, once for each processing object, of so many times as many batches."""


class Comparison:
    """Has the pictures of a generation made in each of the ways."""

    def __init__(self, p: Any, arguments: Arguments, place: slice, jobs: Jobs) -> None:
        """Take over a processing object, until `end`.

        Args:
            p: The host's processing object.
            arguments: The generation's arguments.
            place: Where AlignIT's own stand among the arguments of all scripts.
            jobs: Makes the jobs.
        """
        self._p = p
        self._arguments = arguments
        self._place = place
        self._all_jobs = jobs
        self._jobs: dict[int, Job] = {}
        self._infos: dict[int, dict[str, str]] = {}
        self._way: int | None = None
        self._begun = False
        self._batches = 0
        self._save_grid = False
        self._script_args = p.script_args
        self._given_args = p.script_args
        # By the number of the host's batch, and the place in that.
        self._made: dict[tuple[int, int], _Made] = {}
        self._failed = False
        self._ended = False
        self._taken = [Replaced(p, {"init": self._init(p.init)})]

    @property
    def ended(self) -> bool:
        """Whether nothing is compared any more."""
        return self._ended

    def end(self) -> None:
        """Give the processing object back as it was."""
        self._ended = True
        self.give_back(self._p)
        if self._p.script_args is self._given_args:
            self._p.script_args = self._script_args
        for job in self._jobs.values():
            job.forget()

    def give_back(self, p: Any) -> None:
        """Give the processing object back as it was; or a copy, which has the attributes of its original.

        A copy keeps the scripts' arguments: what it generates inside of a picture is to be made as that picture is.
        """
        for job in self._jobs.values():
            job.give_back(p)
        for taken in reversed(self._taken):
            taken.give_back(p)

    def _init(self, original: Callable[..., None]) -> Callable[..., None]:
        # Called between the last script's `process`, which may yet have changed the prompts, and the host's loop.
        def init(*args: Any, **kwargs: Any) -> None:
            compares = False
            try:
                compares = not self._begun and self._begin()
                original(*args, **kwargs)
                if compares:
                    self._repeat()
            except Exception:
                if compares:
                    self.end()
                raise

        return init

    def _begin(self) -> bool:
        """Say whether there is something to compare, to the user too; if so, make the host's loop longer."""
        p = self._p
        self._begun = True
        self._batches = p.n_iter
        self._save_grid = not p.do_not_save_grid
        try:
            obstacle = self._obstacle()
        except Exception:
            host().life.report("AlignIT: error while looking at the prompts")
            obstacle = "an error while looking at the prompts; the console has the details"
        if obstacle is not None:
            self.end()
            Notes(p).say(f"Nothing is compared: {obstacle}. Each picture is made once.")
            return False
        self._all_jobs.put_to_work(None)
        self._taken.append(Replaced(p, {"n_iter": self._batches * len(_WAYS), "do_not_save_grid": True}))
        self._all_jobs.count_batches(len(_WAYS))
        return True

    def _obstacle(self) -> str | None:
        p = self._p
        if script_runs(p):
            title = p.scripts.selectable_scripts[p.script_args[0] - 1].title()
            return f"the script '{title}' makes the pictures; choose None there, or turn Compare off"
        if getattr(p, "txt2img_upscale", False):
            return "it is a picture of the gallery that is made larger"
        if len(p.all_prompts) < self._batches * p.batch_size:
            return "there are fewer prompts than the batches hold; set Batch size to 1"
        prompts = [*p.all_prompts, *(getattr(p, "all_hr_prompts", None) or [])]
        try:
            found = has_concepts(prompts, self._arguments.class_words)
        except InspectionError as error:
            return f"{error}".rstrip(".")
        return None if found else "the prompt holds no concept with a class word"

    def _repeat(self) -> None:
        """Repeat each batch; the batch size is known only now, as img2img makes it that of the pictures it is given."""
        p = self._p
        size = p.batch_size
        for name in _REPEATED:
            values = getattr(p, name, None)
            if values:
                repeated = [
                    value
                    for batch in range(self._batches)
                    for _way in _WAYS
                    for value in values[batch * size : (batch + 1) * size]
                ]
                setattr(p, name, repeated)

    def begin_batch(self, number: int) -> None:
        """Put the job to work that makes the host's batch of this number."""
        try:
            self._leave()
            self._enter(number % len(_WAYS))
        except Exception:
            self._failed = True
            host().life.report("AlignIT: error while comparing")
            Notes(self._p).say(_FAILED)

    def _leave(self) -> None:
        self._all_jobs.put_to_work(None)
        info = take_info(self._p)
        if self._way is not None:
            self._infos[self._way] = info
        self._way = None

    def _enter(self, way: int) -> None:
        p = self._p
        arguments = _WAYS[way].arguments(self._arguments)
        if way not in self._jobs:
            self._jobs[way] = self._all_jobs.new_job(arguments)
        self._all_jobs.put_to_work(self._jobs[way])
        self._way = way
        p.extra_generation_params.update(self._infos.get(way, {}))
        # Other extensions hand them on to what they generate inside of a picture: ADetailer.
        args = self._script_args
        values = astuple(arguments)[: self._place.stop - self._place.start]
        p.script_args = self._given_args = type(args)(
            (*args[: self._place.start], *values, *args[self._place.start + len(values) :])
        )

    def note_picture(self) -> None:
        """Note that a picture is made, before the host adds it to its list."""
        p = self._p
        index, stopped = p.batch_index, host().sampling.interrupted
        seed = p.seeds[index]
        # With variations, the host gives all pictures one seed.
        label = f"Variation seed: {p.subseeds[index]}" if p.subseed_strength else f"Seed: {seed}"
        self._made[p.iteration, index] = _Made(len(self._made), not stopped, p.prompts[index], seed, label)
        tidy_used(p)

    def name_file(self, filename: str) -> str:
        """Return the name of a picture's file with the way in which it is made."""
        if self._way is None:
            return filename
        # Where names are made of seed and prompt alone, the three would be one file.
        path, extension = os.path.splitext(filename)
        return f"{path}-{_WAYS[self._way].suffix}{extension}"

    def finish(self, processed: Any) -> None:
        """Put the grid into what the host hands on, and give the processing object back."""
        p = self._p
        if not processed.images and not host().sampling.stopping:
            return  # ADetailer has the scripts end in mid-batch, to begin again
        self._leave()
        aligned = self._infos.get(_ALIGNED) or next(reversed(self._infos.values()), {})
        p.extra_generation_params.update(aligned)
        words = self._jobs[_ALIGNED].class_words if _ALIGNED in self._jobs else {}
        self.end()
        if self._failed:
            Notes(p).say(_FAILED)
            return
        try:
            self._add_grid(processed, words)
        except Exception:
            host().life.report("AlignIT: error while making the grid")
            self._say(processed, "An error while making the grid; the console has the details. There is none.")

    def _add_grid(self, processed: Any, words: Mapping[str, str]) -> None:
        p, option = self._p, host().options.get
        rows = self._rows()
        wanted = self._batches * p.batch_size
        if len(rows) < wanted:
            shown = f"The grid shows {len(rows)} of {wanted} seeds: the others do not have"
            self._say(processed, f"{shown if rows else 'There is no grid: no seed has'} all three pictures, complete.")
        saves = option("grid_save", True) and self._save_grid
        if not rows or not (option("return_grid", True) or saves):
            return
        masked = getattr(p, "mask_for_overlay", None) is not None
        stride = 1 + (masked and option("return_mask", False)) + (masked and option("return_mask_composite", False))
        first = processed.index_of_first_image
        pictures = [[processed.images[first + made.position * stride] for made in row] for row in rows]
        aligned = rows[0][_ALIGNED]
        text = processed.infotexts[first + aligned.position]
        grid = _grid(pictures, words, [row[0].label for row in rows])
        if option("enable_pnginfo", True):
            grid.info["parameters"] = text
        if option("return_grid", True):
            processed.images.insert(0, grid)
            processed.infotexts.insert(0, text)
            processed.index_of_first_image = first + 1
            processed.info = text
        if saves:
            host().pictures.save_grid(p, grid, aligned.seed, aligned.prompt, text)

    def _rows(self) -> list[list[_Made]]:
        """Return the pictures of each seed, in the order of the ways, where all of them are complete."""
        found: dict[tuple[int, int], list[_Made]] = {}
        for (batch, index), made in self._made.items():
            if made.complete:
                found.setdefault((batch // len(_WAYS), index), []).append(made)
        return [row for row in found.values() if len(row) == len(_WAYS)]

    def _say(self, processed: Any, note: str) -> None:
        Notes(self._p).say(note)
        # The host has joined its comments by now.
        processed.comments += f"AlignIT: {note}\n"


def _grid(rows: list[list[Image.Image]], words: Mapping[str, str], labels: list[str]) -> Image.Image:
    above = [(way.label, way.words(words)) for way in _WAYS]
    return host().pictures.grid(rows, above, [(label if len(rows) > 1 else "",) for label in labels])
