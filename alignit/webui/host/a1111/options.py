"""Settings and command line."""

from __future__ import annotations

from collections.abc import Sequence

from alignit.webui.host.ports import Setting, Value


class A1111Options:
    """The host's settings; a `alignit.webui.host.ports.Options`."""

    def get(self, name: str, default: Value) -> Value:
        """See `alignit.webui.host.ports.Options`."""
        from modules import shared

        value: Value = getattr(shared.opts, name, default)
        return value

    def flag(self, name: str, default: Value) -> Value:
        """See `alignit.webui.host.ports.Options`."""
        from modules import shared

        value: Value | None = getattr(shared.cmd_opts, name, None)
        return default if value is None else value

    def add(self, section: tuple[str, str], settings: Sequence[Setting], remark: str) -> None:
        """See `alignit.webui.host.ports.Options`."""
        from modules import shared

        for setting in settings:
            arguments = shared.hide_dirs if setting.folder else None
            info = shared.OptionInfo(setting.default, setting.label, component_args=arguments, section=section)
            shared.opts.add_option(setting.name, info.info(setting.info))
        name = f"{section[0]}_remark"
        shared.opts.add_option(name, shared.OptionHTML(remark))
        shared.opts.data_labels[name].section = section

    @property
    def emphasis(self) -> bool:
        """See `alignit.webui.host.ports.Options`."""
        return self.get("emphasis", "Original") != "None"

    @property
    def old_emphasis(self) -> bool:
        """See `alignit.webui.host.ports.Options`."""
        return self.get("use_old_emphasis_implementation", False)

    @property
    def models_folder(self) -> str:
        """See `alignit.webui.host.ports.Options`."""
        from modules import paths

        return str(paths.models_path)
