"""What AlignIT keeps on the host's processing object: one object, with one life.

That life, in the order of the host's calls:

1. `prepare`: what an earlier generation left on the same object, or on the one of which this is a copy, is undone.
2. `begin`: the parts are set up, all of them or none. The parts are a job, which makes pictures; with Compare, a
   comparison, which has a job for each of its ways; and, where they are wanted, the attention maps. Where AlignIT is
   off, `settle` does this for a batch whose prompts name networks: only then is their text final.
3. `begin_batch`, `settle`, `give_plain_text`, `begin_pass`, `step`, `picture_made`, over and over.
4. `finish`: pictures are added to the host's.
5. `end`: the processing object is as it was. The host's `close` ends with it, and so does the next `prepare`.

One that an extension makes without AlignIT's script has its part by `join`, and ends with its sampling.

A copy of a processing object has all of its attributes, and is none of the generation's own: `of` gives None for it,
and `end` gives it back as the original was. ADetailer has the scripts called for copies in mid-batch, to begin again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any
from weakref import ReferenceType, ref

from alignit.maps.words import MapChoice
from alignit.patches import Replaced
from alignit.prompt.syntax import without_class_words
from alignit.webui.generation.arguments import Arguments
from alignit.webui.generation.compare import Comparison
from alignit.webui.generation.infotext import take_info
from alignit.webui.generation.job import Job
from alignit.webui.generation.maps import MapRecording
from alignit.webui.generation.notes import Notes
from alignit.webui.host import host
from alignit.webui.host.ports import Step
from alignit.webui.networks.networks import names_networks, plain_text

_ATTRIBUTE = "alignit"
_running: list[ReferenceType[Generation]] = []  # outermost first: nothing else leads to them from one within

Axes = Mapping[str, Mapping[str, Any]]
"""Arguments that a plot sets for one of its cells, by the axis."""


class Generation:
    """AlignIT's part of a generation."""

    def __init__(self, p: Any, before: Generation | None = None) -> None:
        """Take what outlives a generation from the one before on the same object; nothing else is done yet."""
        self._p = p
        self._axes: Axes = before._axes if before else MappingProxyType({})
        self._counted: bool = before is not None and before._counted
        self._taken: Replaced | None = None
        self._job: Job | None = None
        self._comparison: Comparison | None = None
        self._maps: MapRecording | None = None
        self._of_networks = False
        # Of one that has joined another, until its sampling ends.
        self._joined: Replaced | None = None

    @staticmethod
    def of(p: Any) -> Generation | None:
        """Return the generation that is at work for a processing object, or None; a copy has none of its own."""
        found = _attached(p)
        return found if found is not None and found._p is p and found._taken is not None else None

    @staticmethod
    def axes(p: Any) -> Axes:
        """Return what a plot set for the cell that this processing object is for."""
        found = _attached(p)
        return found._axes if found is not None else {}

    @staticmethod
    def set_axis(p: Any, axis: str, arguments: Mapping[str, Any]) -> None:
        """Set what a plot's axis has for a cell, on the copy of the processing object that the cell is made with."""
        # An object of the cell's own: copies share what they were copied with.
        generation = Generation(p, _attached(p))
        generation._axes = MappingProxyType({**generation._axes, axis: arguments})
        setattr(p, _ATTRIBUTE, generation)

    @staticmethod
    def prepare(p: Any) -> None:
        """Undo what an earlier generation set up on the same object, or on the one of which it is a copy."""
        found = _attached(p)
        if found is not None and found._p is not p and found._taken is not None:
            # ADetailer does this in mid-batch; the info is that of the pictures being made.
            p.extra_generation_params = dict(p.extra_generation_params)
        Generation.end(p)
        take_info(p)

    @staticmethod
    def begin(p: Any, arguments: Arguments, place: slice) -> None:
        """Set a generation with AlignIT on up; where that fails, nothing of it is there, and the user is told.

        Args:
            p: The host's processing object, with its styles merged.
            arguments: The generation's arguments.
            place: Where AlignIT's own stand among the arguments of all scripts.
        """
        Generation.end(p)
        if arguments.enabled:
            Generation._begin(p, arguments, place)

    @staticmethod
    def settle(p: Any) -> None:
        """Set up what the next batch needs where AlignIT is off: its networks, if its prompts name any.

        Wildcards and the like fill prompts in after a generation has begun, and a batch's prompts are not the next
        one's. The host has taken the networks out of the final ones when it calls this.
        """
        named = any(names_networks(getattr(p, name, None)) for name in ("extra_network_data", "hr_extra_network_data"))
        generation = Generation.of(p)
        if generation is None and named:
            Generation.end(p)
            Generation._begin(p, Arguments(), slice(0, 0))
        elif generation is not None and generation._of_networks and not named:
            Generation.end(p)

    @staticmethod
    def _begin(p: Any, arguments: Arguments, place: slice) -> None:
        try:
            Generation(p, _attached(p))._set_up(arguments, place)
        except Exception:
            Generation.end(p)
            host().life.report("AlignIT: error while setting up")
            Notes(p).say(
                "An error while setting up; the console has the details. This picture is made without AlignIT."
            )

    def _set_up(self, arguments: Arguments, place: slice) -> None:
        p = self._p
        setattr(p, _ATTRIBUTE, self)
        self._of_networks = not arguments.enabled
        self._taken = Replaced(p, {"close": self._close(p.close)})
        if arguments.attention_maps:
            self._maps = MapRecording(p, MapChoice.parse(arguments.map_words))
        if arguments.compare:
            self._comparison = Comparison(p, arguments, place, self)
        self.put_to_work(self.new_job(arguments))

    @staticmethod
    def join(p: Any) -> None:
        """Take part in a generation that is made without AlignIT's script, before its prompts are encoded.

        ADetailer makes such ones inside of others, and leaves out the scripts that are not in a list of its settings.
        What holds for the outer one holds for it too.
        """
        if Generation.of(p) is not None:
            return
        Generation.end(p)  # a copy of another's has what is the other's
        running = (found for one in reversed(_running) if (found := one()) is not None and found._p is not p)
        outer = next((found._job for found in running), None)
        arguments = outer.arguments if outer is not None else Arguments()
        if arguments.enabled or names_networks(p.extra_network_data):
            try:
                Generation(p)._join(arguments, outer)
            except Exception:
                Generation.end(p)
                host().life.report("AlignIT: error while setting up a generation within another")
                Notes(p).say("An error while setting up; the console has the details. It is made without AlignIT.")
        Generation.give_plain_text(p)

    def _join(self, arguments: Arguments, outer: Job | None) -> None:
        p = self._p
        setattr(p, _ATTRIBUTE, self)
        self._taken = Replaced(p, {"close": self._close(p.close)})
        self.put_to_work(Job(p, arguments, None, outer))
        self.networks_activated(p.extra_network_data)  # the host has done that, and called other scripts alone
        # No script will be called at its end, and not everyone closes it.
        self._joined = Replaced(p, {"sample": self._sample(p.sample)})

    def _sample(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def sample(*args: Any, **kwargs: Any) -> Any:
            try:
                return original(*args, **kwargs)
            finally:
                if Generation.of(self._p) is self:
                    Generation.end(self._p)

        return sample

    @staticmethod
    def end(p: Any) -> None:
        """Give a processing object back as it was; also a copy of one, which has the attributes of its original."""
        found = _attached(p)
        if found is None:
            return
        if found._p is p:
            found._end()
        else:
            found._give_back(p)
        delattr(p, _ATTRIBUTE)
        if found._axes or found._counted:
            setattr(p, _ATTRIBUTE, Generation(p, found))

    def _end(self) -> None:
        self._run(False)
        if self._comparison is not None:
            self._comparison.end()
        self._give_back(self._p)
        if self._job is not None:
            self._job.forget()
        if self._maps is not None:
            self._maps.forget()
        self._job = self._comparison = self._maps = self._taken = self._joined = None

    def _run(self, runs: bool) -> None:
        """Note whether pictures are made of this generation at this time."""
        _running[:] = [one for one in _running if one() not in (None, self)]
        if runs:
            _running.append(ref(self))

    def _give_back(self, p: Any) -> None:
        if self._joined is not None:
            self._joined.give_back(p)
        if self._job is not None:
            self._job.give_back(p)
        if self._comparison is not None:
            self._comparison.give_back(p)
        if self._taken is not None:
            self._taken.give_back(p)

    def _close(self, original: Callable[[], None]) -> Callable[[], None]:
        def close() -> None:
            if Generation.of(self._p) is self:
                Generation.end(self._p)
            original()

        return close

    def new_job(self, arguments: Arguments) -> Job:
        """See `alignit.webui.generation.compare.Jobs`."""
        return Job(self._p, arguments, self._maps)

    def put_to_work(self, job: Job | None) -> None:
        """See `alignit.webui.generation.compare.Jobs`."""
        if self._job is not None:
            self._job.give_back(self._p)
        self._job = job
        if job is not None:
            job.take_over()

    def count_batches(self, factor: int) -> None:
        """See `alignit.webui.generation.compare.Jobs`."""
        # The Batch tab of img2img counts all of its pictures' batches beforehand, and uses one p for them.
        if not self._counted and host().sampling.count_jobs(factor):
            self._counted = True

    def begin_batch(self, number: int) -> None:
        """The host's batch of this number is next."""
        self._run(True)
        if self._job is not None:
            self._job.begin_batch()
        if self._comparison is not None and not self._comparison.ended:
            self._comparison.begin_batch(number)

    @staticmethod
    def give_plain_text(p: Any) -> None:
        """Give the host plain embeddings for class words in a batch's prompts, but in those that AlignIT aligns."""
        generation = Generation.of(p)
        names = ["negative_prompts", "hr_negative_prompts"]
        if generation is None or generation._job is None or not generation._job.aligns:
            names += ["prompts", "hr_prompts"]
        find = plain_text(p.extra_network_data)
        for name in names:
            prompts = getattr(p, name, None)
            if prompts:
                setattr(p, name, [without_class_words(prompt, find) for prompt in prompts])

    def networks_activated(self, extra_network_data: Any) -> None:
        """The host has put the networks of a batch to work, or those of its hires pass."""
        if self._job is not None:
            of_batch = (getattr(self._p, name, None) or () for name in ("prompts", "hr_prompts"))
            self._job.networks_activated(extra_network_data, [text for texts in of_batch for text in texts])

    def begin_pass(self) -> None:
        """A sampling pass begins."""
        if self._job is not None:
            self._job.begin_pass()

    def step(self, step: Step) -> None:
        """A step of sampling begins."""
        if self._job is not None:
            self._job.step(step)

    def picture_made(self, picture: Any) -> None:
        """A picture is made, and not yet in the host's list.

        Args:
            picture: The picture, of pillow.
        """
        if self._maps is not None:
            self._maps.draw(picture)
        if self._comparison is not None and not self._comparison.ended:
            self._comparison.note_picture()

    def name_file(self, filename: str) -> str:
        """Return the name of a picture's file, with the way in which a comparison makes it."""
        if self._comparison is None or self._comparison.ended:
            return filename
        return self._comparison.name_file(filename)

    def finish(self, processed: Any) -> None:
        """Have the comparison add its grid, and the attention maps their sheets.

        Args:
            processed: The host's `Processed`.
        """
        self._run(False)
        try:
            if self._comparison is not None and not self._comparison.ended:
                self._comparison.finish(processed)
        finally:
            if self._maps is not None:
                self._maps.finish(processed)


def _attached(p: Any) -> Generation | None:
    found = getattr(p, _ATTRIBUTE, None)
    return found if isinstance(found, Generation) else None
