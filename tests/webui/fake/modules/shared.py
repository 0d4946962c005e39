from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from modules import sd_models


class OptionInfo:
    def __init__(
        self,
        default: Any = None,
        label: str = "",
        component: Any = None,
        component_args: Any = None,
        section: tuple[str, str] = ("", ""),
    ) -> None:
        self.default, self.label, self.component = default, label, component
        self.component_args, self.section = component_args, section

    def info(self, text: str) -> OptionInfo:
        self.label += f" ({text})"
        return self


class OptionHTML(OptionInfo):
    def __init__(self, text: str) -> None:
        super().__init__(text)


class Options:
    """Settings: those of the host that are asked for at fixed names, and those that are added."""

    def __init__(self) -> None:
        self.data_labels: dict[str, OptionInfo] = {}
        self.CLIP_stop_at_last_layers = 1
        self.sdxl_clip_l_skip = False
        self.emphasis = "Original"
        self.fp8_storage = "Disable"
        self.cache_fp16_weight = False
        self.samples_format = "png"
        self.use_old_scheduling = False
        self.enable_pnginfo = True
        self.extra_networks_card_description_is_html = False

    def add_option(self, key: str, info: OptionInfo) -> None:
        self.data_labels[key] = info
        setattr(self, key, info.default)


class _Styles:
    def apply_styles_to_prompt(self, prompt: str, styles: list[str]) -> str:
        return ", ".join([prompt, *styles])


opts = Options()
cmd_opts = SimpleNamespace(api=True, deltas_dir=None)
hide_dirs: dict[str, Any] = {}
prompt_styles = _Styles()
state = SimpleNamespace(interrupted=False, skipped=False, stopping_generation=False, job_count=1)
loaded_hypernetworks: list[Any] = []


def __getattr__(name: str) -> Any:
    if name == "sd_model":
        return sd_models.model_data.sd_model
    raise AttributeError(name)
