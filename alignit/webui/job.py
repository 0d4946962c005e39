"""One generation with AlignIT on: what is set up for it, and how nothing of it stays behind.

A job lives on the host's processing object `p` and nowhere else. It takes the place of four of p's own attributes, on
the instance alone: where conditionings are computed, where they are cached, where sampling runs, and where p ends. The
text encoders are changed while a positive prompt is encoded, the UNet has a hook while sampling runs, both in a `with`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modules import errors, sd_hijack, shared

from alignit.class_words import ClassWords, format_class_words
from alignit.injection import Injector
from alignit.syntax import without_class_words
from alignit.webui.arguments import Arguments, infotext_key
from alignit.webui.concepts import Concepts
from alignit.webui.embeddings import find_embedding_name
from alignit.webui.encoders import Encoding, UnsupportedEncoderError
from alignit.webui.notes import INFOTEXT_KEY, Notes
from alignit.webui.patches import replaced

SUGGESTED_KEY = "AlignIT suggested"
_ATTRIBUTE = "alignit_job"
_ARGUMENTS_IN_INFOTEXT = ("class_words", "strength", "start", "end")
_MISSING = object()


class Job:
    """One generation with AlignIT on."""

    def __init__(self, p: Any, arguments: Arguments) -> None:
        """Take over a processing object, until `end`."""
        self._p = p
        self._arguments = arguments
        self._notes = Notes(p)
        self._concepts = Concepts(ClassWords(arguments.class_words), self._notes.say)
        self._injector = Injector(arguments.always)
        self._given_up = False
        self._in_conds: list[tuple[Any, set[str]]] = []
        self._encoded: set[str] = set()
        self._originals: dict[str, Any] = {}
        self._replacements: dict[str, Any] = {}

        replacements = {
            "get_conds_with_caching": self._get_conds(p.get_conds_with_caching),
            "sample": self._sample(p.sample),
            "close": self._close(p.close),
            # The host keeps conditionings for all jobs, under the prompt as typed: ours must not get in, nor its out.
            "cached_c": [None, None],
            "cached_hr_c": [None, None],
            _ATTRIBUTE: self,
        }
        for name, value in replacements.items():
            if hasattr(p, name) or name == _ATTRIBUTE:
                self._originals[name] = vars(p).get(name, _MISSING)
                self._replacements[name] = value
                setattr(p, name, value)

    @staticmethod
    def of(p: Any) -> Job | None:
        """Return the job of a processing object, or None; a copy has none of its own."""
        job = getattr(p, _ATTRIBUTE, None)
        return job if isinstance(job, Job) and job._p is p else None

    @staticmethod
    def end(p: Any) -> None:
        """Give a processing object back as it was; also a copy of one, which has the attributes of its original."""
        job = getattr(p, _ATTRIBUTE, None)
        if isinstance(job, Job):
            for name, value in job._replacements.items():
                if vars(p).get(name) is value:
                    if job._originals[name] is _MISSING:
                        delattr(p, name)
                    else:
                        setattr(p, name, job._originals[name])

    @staticmethod
    def clear_info(p: Any) -> None:
        """Remove what an earlier generation noted in the info; X/Y/Z plot hands it on from cell to cell."""
        for key in (*map(infotext_key, _ARGUMENTS_IN_INFOTEXT), INFOTEXT_KEY, SUGGESTED_KEY):
            p.extra_generation_params.pop(key, None)

    def begin_pass(self) -> None:
        """A sampling pass begins: txt2img has two of them with hires fix."""
        self._end_pass()

    def before_step(self, denoiser: Any) -> None:
        """A step of sampling begins, with the host's `CFGDenoiser`."""
        if self._given_up:
            return
        try:
            conds = self._p.get_conds()[0]
            for known, names in self._in_conds:
                if known is conds:
                    self._injector.expected |= names
            self._injector.active = self._arguments.is_active(denoiser.step / denoiser.total_steps)
            # Asked for at each step, as a refiner changes the model in mid-sampling.
            self._injector.watch(shared.sd_model.model.diffusion_model)
        except Exception:
            self._fail("following the sampling")

    def _get_conds(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def get_conds_with_caching(function: Any, required_prompts: Any, *args: Any, **kwargs: Any) -> Any:
            if getattr(required_prompts, "is_negative_prompt", False):
                return original(function, required_prompts, *args, **kwargs)
            self._encoded = set()
            sd_model = shared.sd_model
            learned = self._learned(sd_model, sd_model.get_learned_conditioning)
            with replaced(sd_model, "get_learned_conditioning", learned):
                conds = original(function, required_prompts, *args, **kwargs)
            if not any(known is conds for known, _ in self._in_conds):
                self._in_conds.append((conds, self._encoded))
            return conds

        return get_conds_with_caching

    def _learned(self, sd_model: Any, original: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def get_learned_conditioning(texts: Any) -> Any:
            if not self._given_up:
                try:
                    for text in texts:
                        self._concepts.read(text)
                    encoding = Encoding(sd_model, self._concepts, lambda _concept: self._arguments.strength)
                    conditioning = encoding.run(original, texts)
                    self._note_injected(encoding)
                    return conditioning
                except UnsupportedEncoderError as error:
                    self._give_up(f"{error}. This picture is made without AlignIT.")
                except Exception:
                    self._fail("encoding the prompt")
            plain = [without_class_words(text, find_embedding_name) for text in texts]
            return original(type(texts)(plain, copy_from=texts))

        return get_learned_conditioning

    def _note_injected(self, encoding: Encoding) -> None:
        self._injector.injected += encoding.injected
        for injected in encoding.injected:
            self._encoded.update(injected.rows.values())
        found = self._concepts.found
        if not found:
            return
        params = self._p.extra_generation_params
        for name in _ARGUMENTS_IN_INFOTEXT:
            params[infotext_key(name)] = f"{getattr(self._arguments, name)}"
        params[infotext_key("class_words")] = format_class_words(
            {name: item.concept.class_word for name, item in found.items()}
        )
        suggested = [name for name, item in found.items() if item.source == "suggested"]
        if suggested:
            params[SUGGESTED_KEY] = ", ".join(suggested)
        self._note_hashes()

    def _note_hashes(self) -> None:
        # The host notes the hash of each embedding that it encodes; it sees the class word in the place of ours.
        if not getattr(shared.opts, "textual_inversion_add_hashes_to_infotext", False):
            return
        hijack = sd_hijack.model_hijack
        entries = [entry for entry in hijack.extra_generation_params.get("TI hashes", "").split(", ") if entry]
        for name, found in self._concepts.found.items():
            shorthash = found.concept.embedding.shorthash
            entry = f"{name.replace(':', '').replace(',', '')}: {shorthash}"
            if shorthash and entry not in entries:
                entries.append(entry)
        if entries:
            hijack.extra_generation_params["TI hashes"] = ", ".join(entries)

    def _sample(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def sample(*args: Any, **kwargs: Any) -> Any:
            if not self._concepts.found and not self._given_up and not self._notes:
                self._notes.say("No embedding in the prompt: the picture is the same as without AlignIT.")
            with self._injector:
                samples = original(*args, **kwargs)
            self._end_pass()
            return samples

        return sample

    def _close(self, original: Callable[[], None]) -> Callable[[], None]:
        def close() -> None:
            self.end(self._p)
            self._forget()
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

    def _fail(self, doing: str) -> None:
        errors.report(f"AlignIT: error while {doing}", exc_info=True)
        self._give_up(f"An error while {doing}; the console has the details. The rest is made without AlignIT.")

    def _give_up(self, note: str) -> None:
        self._given_up = True
        self._forget()
        self._notes.say(note)

    def _forget(self) -> None:
        self._injector.release()
        self._injector.injected.clear()
        self._in_conds.clear()
        for cache in ("cached_c", "cached_hr_c"):
            if cache in self._replacements:
                self._replacements[cache][:] = [None, None]
