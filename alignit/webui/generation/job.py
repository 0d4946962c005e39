"""Pictures with AlignIT on, or with its networks: what is computed for them, and how nothing of it stays behind.

A job takes the place of some attributes of the host's processing object `p`, on the instance alone: where conditionings
are computed, where they are cached, where sampling runs. The text encoders are changed while a positive prompt is
encoded, the UNet has hooks while sampling runs, both in a `with`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from alignit.algorithm.conditioning import Injected
from alignit.algorithm.injection import EncodedBatch, Injection
from alignit.patches import Replaced
from alignit.prompt.class_words import ClassWords
from alignit.prompt.syntax import without_class_words
from alignit.webui.generation.arguments import Arguments
from alignit.webui.generation.concepts import Concepts, PlainTokens
from alignit.webui.generation.encoding import DummyRows, Encoding, ResolvedConcept
from alignit.webui.generation.infotext import write_info
from alignit.webui.generation.loras import JobLoras, cannot_be_bound
from alignit.webui.generation.maps import MapRecording, Schedules, TextWords, words_in
from alignit.webui.generation.notes import Notes
from alignit.webui.host import host
from alignit.webui.host.ports import Condition, Model, Step, UnsupportedEncoderError
from alignit.webui.networks.networks import Active, read_networks
from alignit.webui.networks.table import NETWORKS

_NAMED = " and ".join(f"<{network.keyword}:...>" for network in NETWORKS)
_FIND_IT = "Another extension can do this: turn them off one by one to find it."


@dataclass(eq=False)
class _Conds:
    """A conditioning that was computed for this generation.

    Attributes:
        networks: What the prompt's networks named for it.
        state: What else it was computed with: see `_encoder_state`.
        prompts: Those of its prompts that hold concepts.
        conds: The host's object; a pass of sampling is known by it.
        batch: What the UNet samples with.
        schedules: The words of its texts, where attention maps are wanted.
    """

    networks: Active = field(default_factory=Active)
    state: tuple[Any, ...] = ()
    prompts: list[Injected] = field(default_factory=list)
    conds: Any = None
    batch: EncodedBatch = field(default_factory=EncodedBatch)
    schedules: Schedules | None = None


class Job:
    """Pictures of one generation that are made in the same way, with AlignIT on or with one of its networks."""

    def __init__(
        self, p: Any, arguments: Arguments, maps: MapRecording | None = None, outer: Job | None = None
    ) -> None:
        """Prepare; nothing is taken over before `take_over`.

        Args:
            p: The host's processing object.
            arguments: How the pictures are made.
            maps: Records the attention maps of the generation, where they are wanted.
            outer: The job inside of which an extension has these pictures made: its notes are said there, and class
                words and options that are in its prompts count in theirs too.
        """
        self._outer = outer
        self._p = p
        self._arguments = arguments
        self._maps = maps
        self._notes: Notes = outer._notes if outer is not None else Notes(p)
        self._concepts = Concepts(ClassWords(arguments.class_words), arguments.base_controls, self._notes.say)
        sampling = host().sampling
        self._injection = Injection(levels=_levels, prepare=sampling.inputs, networks=sampling.networks)
        self._failed = False
        self._computed: list[_Conds] = []
        self._computing = _Conds()
        self._dummies: dict[Any, DummyRows] = {}
        # The host keeps conditionings for all jobs, under the prompt as typed: ours must not get in, nor its out.
        hosts = {name: getattr(p, name) for name in ("cached_c", "cached_hr_c") if hasattr(p, name)}
        self._caches: dict[str, list[Any]] = {name: [None] * len(cache) for name, cache in hosts.items()}
        self._texts: list[str] = []
        self._loras = JobLoras(p)
        self._taken: Replaced | None = None
        self._at_work = False

    def take_over(self) -> None:
        """Make the pictures from now on, for the first time or once more."""
        p = self._p
        replacements = {
            "get_conds_with_caching": self._get_conds(p.get_conds_with_caching),
            "sample": self._sample(p.sample),
            **self._caches,
        }
        if self._outer is not None:
            # It can be in mid-sampling; its hooks come back with its next step.
            self._outer._injection.release()
        self._taken = Replaced(p, replacements)
        self._at_work = True

    def give_back(self, p: Any) -> None:
        """Give the processing object back as it was; or a copy, which has the attributes of its original."""
        if p is self._p:
            # What another extension put on top of ours in the meantime stays, and still calls it.
            self._at_work = False
            self._loras.give_back()
        else:
            self._loras.give_back_copy(p)
        if self._taken is not None:
            self._taken.give_back(p)

    @property
    def aligns(self) -> bool:
        """Whether concepts are injected: AlignIT is on, and nothing went wrong so far."""
        return self._arguments.enabled and not self._failed

    @property
    def arguments(self) -> Arguments:
        """How pictures are made that another extension makes inside of these."""
        return replace(self._arguments, enabled=self.aligns, compare=False, attention_maps=False)

    @property
    def class_words(self) -> Mapping[str, str]:
        """The class words of the concepts that were found so far, by name."""
        return {name: found.concept.class_word for name, found in self._concepts.found.items()}

    def begin_batch(self) -> None:
        """A batch of the host's begins: it looks for its LoRAs by their names where it puts them to work."""
        self._loras.give_back()

    def networks_activated(self, extra_network_data: Any, prompts: Sequence[str]) -> None:
        """The host has put the networks of a prompt to work: take the LoRAs that are concepts.

        Args:
            extra_network_data: What the prompt says of networks.
            prompts: The batch's prompts.
        """
        if not self._at_work or not self.aligns:
            return
        self._read_each(prompts)
        if not self.aligns:
            return
        try:
            if self._loras.bind(extra_network_data, self._concepts.binds):
                self._forget_conditionings()
            for note in (*self._loras.notes, *cannot_be_bound(extra_network_data, self._concepts.binds)):
                self._notes.say(note)
        except Exception:
            self._fail("taking LoRAs apart")

    def begin_pass(self) -> None:
        """A sampling pass begins: txt2img has two of them with hires fix."""
        if self._maps is not None:
            self._maps.begin_pass()
        self._end_pass()

    def step(self, step: Step) -> None:
        """A step of sampling begins."""
        try:
            # Asked for at each step, as a refiner changes model and conditioning in mid-sampling.
            conds = self._p.get_conds()[0]
            computed = next((known for known in self._computed if known.conds is conds), None)
            self._inject(computed, step)
        except Exception:
            self._fail(
                "following the sampling",
                "The concepts stay injected at every step of this picture; what comes next is made without AlignIT.",
            )
            computed = None
        if self._maps is not None:
            # After the injection's hooks, whose keys are to be seen.
            self._maps.before_step(computed.schedules if computed else None, step)

    def _inject(self, computed: _Conds | None, step: Step) -> None:
        model = host().model()
        if computed is None:
            # Not computed here: another extension made it, of the concepts or without them.
            everything = EncodedBatch.joined(known.batch for known in self._computed)
            self._injection.use(everything, model.identity)
        else:
            self._injection.use(computed.batch, (model.identity, computed.state))
        self._injection.step(model.unet, 0.0 if self._injection.steady else step.fraction)

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
            state = (*_encoder_state(extra_network_data), self._loras.identity)
            self._computing = _Conds(self._read_networks(extra_network_data), state)
            self._read(required_prompts)
            dummies = self._dummies.setdefault(state, {})
            with model.conditioning(lambda learned: self._learned(model, learned, dummies)):
                conds = original(function, required_prompts, steps, caches, extra_network_data, *args, **kwargs)
            if not any(known.conds is conds for known in self._computed):
                self._computing.conds = conds
                self._computing.batch = self._batch()
                if self._maps is not None:
                    hires_steps = args[0] if args else kwargs.get("hires_steps")
                    self._computing.schedules = self._maps.read(required_prompts, steps, hires_steps, self._words)
                self._computed.append(self._computing)
                self._say_unused(self._computing)
            return conds

        return get_conds_with_caching

    def _batch(self) -> EncodedBatch:
        """Return what is sampled with, of what was computed just now."""
        if not self.aligns:
            return EncodedBatch(everywhere=tuple(self._computing.networks.changes))
        prompts = tuple(self._computing.prompts)
        concepts = [self._found(name) for name in dict.fromkeys(n for prompt in prompts for n in prompt.rows.values())]
        return EncodedBatch(
            prompts,
            {concept.name: concept.controls for concept in concepts},
            {concept.name: concept.change for concept in concepts if concept.change is not None},
            others={concept.name: concept.others for concept in concepts if concept.others is not None},
        )

    def _words(self, text: str, wanted: Sequence[str]) -> TextWords:
        if self.aligns:
            alone = {
                name: found.concept.class_word
                for name, found in self._concepts.found.items()
                if found.concept.controls.strength == 0
            }
            return words_in(host().model(), self._concepts, text, wanted, alone)
        lookup = PlainTokens(self._computing.networks)
        return words_in(host().model(), lookup, self._without_class_words([text])[0], wanted)

    def _read(self, prompts: Any) -> None:
        # All of them first: the parts of AND and the batch's prompts are encoded one by one, and a class word given in
        # a later one is for the earlier ones too.
        if not self.aligns:
            return
        self._texts += prompts
        self._read_each([*prompts, *(self._outer._texts if self._outer is not None else ())])

    def _read_each(self, prompts: Sequence[str]) -> None:
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
                if networks.with_tokens:
                    try:
                        lookup = PlainTokens(networks)
                        return Encoding(model, lookup, self._found).run(original, plain_texts)
                    except UnsupportedEncoderError as error:
                        self._notes.say(f"{error}. The tokens of {networks.keywords} are read as plain text.")
                return original(plain_texts)

        return get_learned_conditioning

    def _without_class_words(self, texts: Any) -> list[str]:
        try:
            return [without_class_words(text, self._computing.networks.plain_text) for text in texts]
        except Exception:
            self._fail("looking for embeddings")
            return list(texts)

    def _found(self, name: str) -> ResolvedConcept:
        return self._concepts.found[name].concept

    def _read_networks(self, extra_network_data: Any) -> Active:
        networks = Active()
        try:
            networks = read_networks(extra_network_data, self._notes.say)
            if self.aligns:
                networks = networks.joined(self._loras.concepts)
        except UnsupportedEncoderError as error:
            self._notes.say(f"{error}. {_NAMED} is not used.")
        except Exception:
            host().life.report("AlignIT: error while reading concepts")
            self._notes.say(f"An error while reading {_NAMED}; the console has the details. It is not used.")
        self._concepts.networks = networks
        return networks

    def _say_unused(self, computed: _Conds) -> None:
        if not self.aligns:
            return
        for note in self._concepts.unused(computed.networks, computed.batch.concepts):
            self._notes.say(note)
        self._concepts.say_where_the_list_names_nothing()

    def _note_injected(self, encoding: Encoding) -> None:
        self._computing.prompts += encoding.injected
        if self._concepts.found:
            write_info(self._p, self._arguments, self._concepts.found)

    def _sample(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def sample(*args: Any, **kwargs: Any) -> Any:
            if not self._at_work:
                return original(*args, **kwargs)
            try:
                samples = original(*args, **kwargs)
            finally:
                self._injection.release()
                if self._maps is not None:
                    self._maps.release()
            try:
                self._end_pass()
            except Exception:
                self._fail("looking where the concepts arrived")
            if self._maps is not None:
                self._maps.end_sampling()
            # Only now: the prompt of hires fix is encoded in mid-sampling.
            quiet = self._outer is not None or self._notes or host().sampling.interrupted
            if self.aligns and not self._concepts.found and not quiet:
                self._notes.say("No concept in the prompt: the picture is the same as without AlignIT.")
            return samples

        return sample

    def _end_pass(self) -> None:
        lost = self._injection.lost
        if lost and not host().sampling.interrupted:
            self._notes.say(
                f"{', '.join(sorted(lost))} reached the picture nowhere: something else, such as another extension, "
                "changed the prompt's conditioning on the way. Turn other extensions off one by one to find it."
            )
        unplaced = self._injection.unplaced
        if unplaced and not host().sampling.interrupted:
            self._notes.say(
                f"In {len(unplaced)} of a LoRA's layers, such as {min(unplaced)}, it is not known which part of the "
                "picture is which: token merging, Hypertile or another extension changes them. The LoRA was off there."
            )
        missing = self._injection.missing
        if missing and not host().sampling.interrupted:
            known = dict.fromkeys(map(host().life.extension_of, self._injection.functions))
            others = " and ".join(name for name in known if name)
            self._notes.say(
                f"{', '.join(sorted(missing))} is not put in exactly: in {max(map(len, missing.values()))} places of "
                "the UNet, keys and values are computed from other rows than the prompt's. "
                + (f"{others} changes them: turn it off." if others else _FIND_IT)
            )
        self._injection.begin_pass()

    def _fail(self, doing: str, outcome: str = "The rest is made without AlignIT.") -> None:
        host().life.report(f"AlignIT: error while {doing}")
        self._give_up(f"An error while {doing}; the console has the details. {outcome}")

    def _give_up(self, note: str) -> None:
        self._failed = True
        self._loras.give_back()
        self.forget()
        self._notes.say(note)

    def forget(self) -> None:
        """Let go of what was computed for the generation."""
        self._injection.release()
        self._injection.use(EncodedBatch())
        self._injection.begin_pass()
        self._computed.clear()
        self._computing = _Conds(self._computing.networks, self._computing.state)
        self._dummies.clear()
        self._loras.forget()
        self._forget_conditionings()

    def _forget_conditionings(self) -> None:
        for cache in self._caches.values():
            cache[:] = [None] * len(cache)


def _encoder_state(extra_network_data: Any) -> tuple[Any, ...]:
    """Return what the host takes into account where it asks whether a conditioning is still good.

    With hires fix the host encodes a prompt twice; where nothing of this changed, the dummy prompts need not be.
    """
    networks = {
        name: [tuple(map(str, params.items)) for params in all_params]
        for name, all_params in (extra_network_data or {}).items()
        if name not in {network.keyword for network in NETWORKS}
    }
    return host().model().encoding_state, repr(sorted(networks.items()))


def _levels(unet: Any) -> int:
    return len(unet.channel_mult)
