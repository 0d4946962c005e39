"""One generation with AlignIT on, or with its networks: what is set up for it, and how nothing of it stays behind.

A job lives on the host's processing object `p` and nowhere else. It takes the place of some of p's own attributes, on
the instance alone: where conditionings are computed, where they are cached, where sampling runs, and where p ends. The
text encoders are changed while a positive prompt is encoded, the UNet has a hook while sampling runs, both in a `with`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules import errors, shared

from alignit.algorithm.controls import Controls
from alignit.algorithm.injection import Injector
from alignit.algorithm.projections import ChangedAtConcepts, ChangedEverywhere, ProjectionHooks, needs_projections
from alignit.concepts.weight_change import Change
from alignit.prompt.class_words import ClassWords
from alignit.prompt.syntax import without_class_words
from alignit.webui.generation.arguments import Arguments
from alignit.webui.generation.concepts import Concepts, PlainDeltas
from alignit.webui.generation.encoding import Concept, DummyRows, Encoding
from alignit.webui.generation.infotext import write_info
from alignit.webui.generation.maps import MapRecording, Schedules, TextWords, words_in
from alignit.webui.generation.notes import Notes
from alignit.webui.generation.takeover import Takeover, attached
from alignit.webui.host import host
from alignit.webui.host.ports import Condition, Model, Step, UnsupportedEncoderError
from alignit.webui.networks.networks import NETWORKS, Active, read_networks

_ATTRIBUTE = "alignit_job"
_NAMED = " and ".join(f"<{network}:...>" for network in NETWORKS)


@dataclass(eq=False)
class _Conds:
    """A conditioning that was computed for this generation.

    Attributes:
        conds: The host's object; a pass of sampling is known by it.
        concepts: The concepts injected into it.
        changes: For each of them that has one, its change of W_k and W_v.
        networks: What the prompt's networks named for it.
        state: What else it was computed with: see `_encoder_state`.
        schedules: The words of its texts, where attention maps are wanted.
    """

    conds: Any
    concepts: set[str]
    changes: dict[str, Change]
    networks: Active
    state: tuple[Any, ...] = ()
    schedules: Schedules | None = None


class Job:
    """One generation with AlignIT on, or with Custom Diffusion or CatVersion in its prompt."""

    def __init__(self, p: Any, arguments: Arguments) -> None:
        """Prepare for a processing object and take it over, until `end`."""
        self._p = p
        self._arguments = arguments
        self._notes = Notes(p)
        self._concepts = Concepts(ClassWords(arguments.class_words), arguments.base_controls, self._notes.say)
        self._injector = Injector()
        self._projections: ProjectionHooks | None = None
        self._at_concepts: ChangedAtConcepts | None = None
        self._failed = False
        self._computed: list[_Conds] = []
        self._computing = _Conds(None, set(), {}, Active())
        self._sampled_with: tuple[Any, ...] = ()
        self._dummies: dict[Any, DummyRows] = {}
        # The host keeps conditionings for all jobs, under the prompt as typed: ours must not get in, nor its out.
        self._caches = {name: [None, None] for name in ("cached_c", "cached_hr_c") if hasattr(p, name)}
        self._takeover = self._take_over()

    def resume(self) -> None:
        """Take the processing object over once more, where another job had it in between."""
        self._takeover = self._take_over()

    def _take_over(self) -> Takeover:
        p = self._p
        replacements = {
            "get_conds_with_caching": self._get_conds(p.get_conds_with_caching),
            "sample": self._sample(p.sample),
            "close": self._close(p.close),
            **self._caches,
            _ATTRIBUTE: self,
        }
        return Takeover(p, replacements)

    @property
    def aligns(self) -> bool:
        """Whether concepts are injected: AlignIT is on, and nothing went wrong so far."""
        return self._arguments.enabled and not self._failed

    @property
    def class_words(self) -> Mapping[str, str]:
        """The class words of the concepts that were found so far, by name."""
        return {name: found.concept.class_word for name, found in self._concepts.found.items()}

    @property
    def _at_work(self) -> bool:
        # What another extension put on top of ours in the meantime stays, and still calls it.
        return Job.of(self._p) is self

    @staticmethod
    def of(p: Any) -> Job | None:
        """Return the job of a processing object, or None; a copy has none of its own."""
        return attached(p, _ATTRIBUTE, Job)

    @staticmethod
    def end(p: Any) -> None:
        """Give a processing object back as it was; also a copy of one, which has the attributes of its original."""
        job = getattr(p, _ATTRIBUTE, None)
        if isinstance(job, Job):
            job._takeover.give_back(p)

    @staticmethod
    def is_copy(p: Any) -> bool:
        """Say whether a processing object is a copy of one that is at work."""
        job = getattr(p, _ATTRIBUTE, None)
        return isinstance(job, Job) and job._p is not p

    def begin_pass(self) -> None:
        """A sampling pass begins: txt2img has two of them with hires fix."""
        self._end_pass()
        maps = MapRecording.of(self._p)
        if maps is not None:
            maps.begin_pass()

    def before_step(self, step: Step) -> None:
        """A step of sampling begins."""
        try:
            # Asked for at each step, as a refiner changes model and conditioning in mid-sampling.
            conds = self._p.get_conds()[0]
            computed = next((known for known in self._computed if known.conds is conds), None)
            unet: Any = host().model().unet
            if computed is None:
                # Not computed here: another extension made it, of the concepts or without them.
                self._injector.expected |= set().union(*(known.concepts for known in self._computed))
            else:
                self._injector.expected |= computed.concepts
                self._watch_projections(computed, unet)
            if self.aligns:
                fraction = step.fraction
                self._injector.inactive = {
                    name for name, controls in self._controls().items() if not controls.steps.is_active(fraction)
                }
                self._injector.watch(unet)
                if self._at_concepts is not None:
                    self._at_concepts.fraction = fraction
        except Exception:
            self._fail(
                "following the sampling",
                "The concepts stay injected at every step of this picture; what comes next is made without AlignIT.",
            )

    def record_step(self, step: Step) -> None:
        """Record the attention of a step: after `before_step` and its hooks."""
        maps = MapRecording.of(self._p)
        if maps is not None:
            conds = self._p.get_conds()[0]
            computed = next((known for known in self._computed if known.conds is conds), None)
            maps.before_step(computed.schedules if computed else None, step)

    def _watch_projections(self, computed: _Conds, unet: Any) -> None:
        # The same modules can hold another checkpoint's weights, and the next pass other deltas or LoRAs. Where it has
        # the same, what was computed for the pass before holds.
        changes = computed.changes if self.aligns else computed.networks.changes
        controls = self._controls()
        sampled_with = self.aligns, changes, controls, computed.state, host().model().identity
        if self._sampled_with != sampled_with:
            self._sampled_with = sampled_with
            self._release_projections()
            if self.aligns and any(
                needs_projections(controls[name], name in computed.changes) for name in computed.concepts
            ):
                self._projections = self._at_concepts = ChangedAtConcepts(
                    self._injector.injected, computed.changes, controls, len(unet.channel_mult), host().sampling.inputs
                )
            elif not self.aligns and computed.networks.deltas:
                self._projections = ChangedEverywhere(computed.networks.changes)
        if self._projections is not None:
            self._projections.watch(unet)

    def _release_projections(self) -> None:
        if self._projections is not None:
            self._projections.release()
            self._projections = self._at_concepts = None

    def _get_conds(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def get_conds_with_caching(
            function: Any,
            required_prompts: Any,
            steps: int,
            caches: Any,
            extra_network_data: Any,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            if not self._at_work or getattr(required_prompts, "is_negative_prompt", False):
                return original(function, required_prompts, steps, caches, extra_network_data, *args, **kwargs)
            model = host().model()
            state = _encoder_state(extra_network_data)
            self._computing = _Conds(None, set(), {}, self._read_networks(extra_network_data), state)
            self._read(required_prompts)
            dummies = self._dummies.setdefault(state, {})
            with model.conditioning(lambda learned: self._learned(model, learned, dummies)):
                conds = original(function, required_prompts, steps, caches, extra_network_data, *args, **kwargs)
            if not any(known.conds is conds for known in self._computed):
                self._computing.conds = conds
                maps = MapRecording.of(self._p)
                if maps is not None:
                    hires_steps = args[0] if args else kwargs.get("hires_steps")
                    self._computing.schedules = maps.read(required_prompts, steps, hires_steps, self._words)
                self._computed.append(self._computing)
                self._say_unused(self._computing)
            return conds

        return get_conds_with_caching

    def _words(self, text: str, wanted: Sequence[str]) -> TextWords:
        if self.aligns:
            alone = {
                name: found.concept.class_word
                for name, found in self._concepts.found.items()
                if found.concept.controls.strength == 0
            }
            return words_in(host().model(), self._concepts, text, wanted, alone)
        lookup = PlainDeltas(self._computing.networks.deltas)
        return words_in(host().model(), lookup, self._without_class_words([text])[0], wanted)

    def _read(self, prompts: Any) -> None:
        # All of them first: the parts of AND and the batch's prompts are encoded one by one, and a class word given in
        # a later one is for the earlier ones too.
        if not self.aligns:
            return
        try:
            for prompt in prompts:
                self._concepts.read(prompt)
        except Exception:
            self._fail("reading the prompt")

    def _learned(self, model: Model, original: Condition, dummies: DummyRows) -> Condition:
        def get_learned_conditioning(texts: Any) -> Any:
            if self.aligns:
                try:
                    for text in texts:
                        self._concepts.read(text)
                    encoding = Encoding(model, self._concepts, self._found, dummies)
                    conditioning = encoding.run(original, texts)
                    self._note_injected(encoding)
                    return conditioning
                except UnsupportedEncoderError as error:
                    self._give_up(f"{error}. This picture is made without AlignIT.")
                except Exception:
                    self._fail("encoding the prompt")
            plain_texts = type(texts)(self._without_class_words(texts), copy_from=texts)
            networks = self._computing.networks
            with networks.changed_encoder(model):
                if networks.deltas:
                    try:
                        lookup = PlainDeltas(networks.deltas)
                        return Encoding(model, lookup, self._found).run(original, plain_texts)
                    except UnsupportedEncoderError as error:
                        self._notes.say(f"{error}. The tokens of <delta:...> are read as plain text.")
                return original(plain_texts)

        return get_learned_conditioning

    def _without_class_words(self, texts: Any) -> list[str]:
        try:
            return [without_class_words(text, self._computing.networks.plain_text) for text in texts]
        except Exception:
            self._fail("looking for embeddings")
            return list(texts)

    def _found(self, name: str) -> Concept:
        return self._concepts.found[name].concept

    def _controls(self) -> dict[str, Controls]:
        return {name: found.concept.controls for name, found in self._concepts.found.items()}

    def _read_networks(self, extra_network_data: Any) -> Active:
        networks = Active()
        try:
            networks = read_networks(extra_network_data, self._notes.say)
        except UnsupportedEncoderError as error:
            self._notes.say(f"{error}. {_NAMED} is not used.")
        except Exception:
            errors.report("AlignIT: error while reading concepts", exc_info=True)
            self._notes.say(f"An error while reading {_NAMED}; the console has the details. It is not used.")
        self._concepts.networks = networks
        return networks

    def _say_unused(self, computed: _Conds) -> None:
        if not self.aligns:
            return
        for note in self._concepts.unused(computed.networks, computed.concepts):
            self._notes.say(note)

    def _note_injected(self, encoding: Encoding) -> None:
        self._injector.injected += encoding.injected
        for name in {name for injected in encoding.injected for name in injected.rows.values()}:
            self._computing.concepts.add(name)
            concept = self._found(name)
            if concept.change is not None:
                self._computing.changes[name] = concept.change
            self._injector.always_active &= concept.controls.steps.always
        if self._concepts.found:
            write_info(self._p, self._arguments, self._concepts.found)

    def _sample(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def sample(*args: Any, **kwargs: Any) -> Any:
            if not self._at_work:
                return original(*args, **kwargs)
            maps = MapRecording.of(self._p)
            try:
                samples = original(*args, **kwargs)
            finally:
                self._injector.release()
                self._release_projections()
                self._sampled_with = ()
                if maps is not None:
                    maps.release()
            try:
                self._end_pass()
            except Exception:
                self._fail("looking where the concepts arrived")
            if maps is not None:
                maps.end_sampling()
            # Only now: the prompt of hires fix is encoded in mid-sampling.
            stopped = shared.state.interrupted or shared.state.skipped
            if self.aligns and not stopped and not self._concepts.found and not self._notes:
                self._notes.say("No concept in the prompt: the picture is the same as without AlignIT.")
            return samples

        return sample

    def _close(self, original: Callable[[], None]) -> Callable[[], None]:
        def close() -> None:
            self.end(self._p)
            self.forget()
            original()

        return close

    def _end_pass(self) -> None:
        lost = self._injector.expected - self._injector.seen
        if lost and not (shared.state.interrupted or shared.state.skipped):
            self._notes.say(
                f"{', '.join(sorted(lost))} reached the picture nowhere: something else, such as another extension, "
                "changed the prompt's conditioning on the way. Turn other extensions off one by one to find it."
            )
        self._injector.expected = set()
        self._injector.seen = set()

    def _fail(self, doing: str, outcome: str = "The rest is made without AlignIT.") -> None:
        errors.report(f"AlignIT: error while {doing}", exc_info=True)
        self._give_up(f"An error while {doing}; the console has the details. {outcome}")

    def _give_up(self, note: str) -> None:
        self._failed = True
        self._injector.expected = set()
        self.forget()
        self._notes.say(note)

    def forget(self) -> None:
        """Let go of what was computed for the generation."""
        self._injector.release()
        self._injector.injected.clear()
        self._release_projections()
        self._computed.clear()
        self._dummies.clear()
        for cache in self._caches.values():
            cache[:] = [None, None]


def _encoder_state(extra_network_data: Any) -> tuple[Any, ...]:
    """Return what the host takes into account where it asks whether a conditioning is still good.

    With hires fix the host encodes a prompt twice; where nothing of this changed, the dummy prompts need not be.
    """
    networks = {
        name: [tuple(map(str, params.items)) for params in all_params]
        for name, all_params in (extra_network_data or {}).items()
        if name not in NETWORKS
    }
    return host().model().encoding_state, repr(sorted(networks.items()))
