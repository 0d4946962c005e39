"""How prompts are taken apart."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from alignit.webui.host.ports import Embedding, Options, Schedule


class A1111Prompts:
    """The host's reading of prompts; a `alignit.webui.host.ports.Prompts`."""

    def __init__(self, options: Options) -> None:
        """Take the host's settings."""
        self._options = options

    def with_styles(self, prompt: str, styles: Sequence[str]) -> str:
        """See `alignit.webui.host.ports.Prompts`."""
        from modules import shared

        return str(shared.prompt_styles.apply_styles_to_prompt(prompt, list(styles)))

    def without_comments(self, prompt: str) -> str:
        """See `alignit.webui.host.ports.Prompts`."""
        from modules import script_callbacks

        try:
            params = script_callbacks.BeforeTokenCounterParams(prompt, 20, [], is_positive=True)
        except AttributeError:
            return prompt  # of before there were comments
        # What takes comments out says so where the host counts the tokens of a prompt that is being typed.
        script_callbacks.before_token_counter_callback(params)
        return str(params.prompt)

    def networks(self, prompt: str) -> tuple[str, Mapping[str, Any]]:
        """See `alignit.webui.host.ports.Prompts`."""
        from modules import extra_networks

        (text,), found = extra_networks.parse_prompts([prompt])
        return text, found

    def parts(self, prompts: list[str]) -> tuple[list[list[tuple[int, float]]], list[str]]:
        """See `alignit.webui.host.ports.Prompts`."""
        from modules import prompt_parser

        of_prompts, texts, _ = prompt_parser.get_multicond_prompt_list(prompts)
        return of_prompts, texts

    def schedules(self, texts: list[str], steps: int, hires_steps: int | None = None) -> list[Schedule]:
        """See `alignit.webui.host.ports.Prompts`."""
        from modules import prompt_parser

        # The host's argument is as old as its setting.
        old = self._options.get("use_old_scheduling", None)
        found = prompt_parser.get_learned_conditioning_prompt_schedules(
            texts, steps, hires_steps, *([] if old is None else [old])
        )
        return [[(int(end), text) for end, text in schedule] for schedule in found]

    used_key = "TI hashes"

    def used(self, name: str, embedding: Embedding) -> str | None:
        """See `alignit.webui.host.ports.Prompts`."""
        if not self._options.get("textual_inversion_add_hashes_to_infotext", False):
            return None
        shorthash = getattr(embedding, "shorthash", None)
        return f"{name.replace(':', '').replace(',', '')}: {shorthash}" if shorthash else None

    @property
    def info(self) -> MutableMapping[str, Any]:
        """See `alignit.webui.host.ports.Prompts`."""
        from modules import sd_hijack

        info: MutableMapping[str, Any] = sd_hijack.model_hijack.extra_generation_params
        return info
