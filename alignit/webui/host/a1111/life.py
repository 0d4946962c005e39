"""Callbacks, errors and the queue."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from alignit.webui.host.a1111.sampling import A1111Step
from alignit.webui.host.ports import Step
from alignit.webui.host.recent import RECENT


class A1111LifeCycle:
    """The host's life cycle; a `alignit.webui.host.ports.LifeCycle`."""

    def report(self, message: str, *, traceback: bool = True) -> None:
        """See `alignit.webui.host.ports.LifeCycle`."""
        from modules import errors

        RECENT.failure(message)
        errors.report(message, exc_info=traceback)

    def refuse(self, p: Any, error: Exception) -> None:
        """See `alignit.webui.host.ports.LifeCycle`."""

        def refused(*_args: Any, **_kwargs: Any) -> None:
            raise error

        # What a script raises is swallowed by the host. A method that every host of the family calls next, on this
        # object, is the one place from which an error reaches the caller of the API.
        p.setup_prompts = refused

    def extension_of(self, function: Callable[..., Any]) -> str | None:
        """See `alignit.webui.host.ports.LifeCycle`."""
        from modules import extensions

        code = getattr(inspect.unwrap(function), "__code__", None)
        if code is None:
            return None
        file = Path(code.co_filename).resolve()
        folders = [(Path(one.path).resolve(), one) for one in extensions.extensions]
        # A link can lead into another extension's folder.
        found = max(((folder, one) for folder, one in folders if file.is_relative_to(folder)), default=None, key=_depth)
        return None if found is None or found[1].is_builtin else str(found[1].name)

    def scripts_of(self, p: Any) -> Sequence[object]:
        """See `alignit.webui.host.ports.LifeCycle`."""
        scripts: Sequence[object] = getattr(getattr(p, "scripts", None), "alwayson_scripts", ())
        return scripts

    @property
    def queue(self) -> AbstractContextManager[Any]:
        """See `alignit.webui.host.ports.LifeCycle`."""
        from modules.call_queue import queue_lock

        lock: AbstractContextManager[Any] = queue_lock
        return lock

    def on_settings(self, call: Callable[[], None]) -> None:
        """See `alignit.webui.host.ports.LifeCycle`."""
        from modules import script_callbacks

        script_callbacks.on_ui_settings(call)

    def on_page(self, call: Callable[[], None]) -> None:
        """See `alignit.webui.host.ports.LifeCycle`."""
        from modules import script_callbacks

        script_callbacks.on_before_ui(call)

    def on_started(self, call: Callable[[Any], None]) -> None:
        """See `alignit.webui.host.ports.LifeCycle`."""
        from modules import script_callbacks

        script_callbacks.on_app_started(lambda _demo, app: call(app))

    def on_step(self, call: Callable[[Step], None]) -> None:
        """See `alignit.webui.host.ports.LifeCycle`."""
        from modules import script_callbacks

        script_callbacks.on_cfg_denoiser(lambda params: call(A1111Step(params)))

    def on_save(self, call: Callable[[Any], None]) -> None:
        """See `alignit.webui.host.ports.LifeCycle`."""
        from modules import script_callbacks

        script_callbacks.on_before_image_saved(call)


def _depth(found: tuple[Path, Any]) -> int:
    return len(found[0].parts)
