"""The tabs with a card for each file of a kind of concept, Custom Diffusion and CatVersion among them.

A click on a card writes into the prompt what the concept needs there: ``<delta:my-run:1> <new1> cat``, or
``<catversion:teddy_bear> teddy bear``.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from modules import ui_extra_networks

from alignit.concepts.concept import ConceptFileError
from alignit.prompt.class_words import ClassWordError, remembered
from alignit.prompt.sidecar import SidecarError, read_sidecar
from alignit.webui.host import host
from alignit.webui.networks.library import outline
from alignit.webui.networks.network import Network
from alignit.webui.networks.table import NETWORKS
from alignit.webui.ui.metadata_editor import MetadataEditor, chosen_token, preferred_strength

_PATTERN = re.compile(r"[\\^$*+?()\[\]{}|]")


class ConceptsPage(ui_extra_networks.ExtraNetworksPage):  # type: ignore[misc]
    """The tab of one kind of concept."""

    def __init__(self, network: Network) -> None:
        """Make the page anew, as the host does with its own whenever it makes its UI."""
        super().__init__(network.method)
        # The host asks for a card's metadata by the tab's name, in which spaces are underscores.
        self.name = self.extra_networks_tabname
        self.network = network

    def list_items(self) -> Iterator[dict[str, Any]]:
        """See the host's class."""
        for index, (name, path) in enumerate(self._named().items()):
            with suppress(OSError):  # it was deleted meanwhile
                yield self._item(name, path, index)

    def create_item(self, name: str, index: int | None = None, enable_filter: bool = True) -> dict[str, Any]:  # noqa: ARG002
        """See the host's class.

        Raises:
            KeyError: There is no file of this name.
        """
        named = self._named()
        return self._item(name, named[name], list(named).index(name) if index is None else index)

    def _named(self) -> dict[str, Path]:
        # The settings can name another folder than when the page was registered.
        ui_extra_networks.allowed_dirs.update(self.allowed_directories_for_previews())
        return self.network.library.named()

    def _item(self, name: str, path: Path, index: int) -> dict[str, Any]:
        start = os.path.splitext(path)[0]
        item = {
            "name": name,
            "filename": str(path),
            "shorthash": None,
            # my-cat.png, too, is a picture of my-cat.delta.safetensors.
            "preview": self.find_preview(start) or self.find_preview(start.removesuffix(".delta")),
            "local_preview": f"{start}.{host().options.get('samples_format', 'png')}",
            "sort_keys": {"default": index, **self.get_sort_keys(str(path))},
        }
        self.read_user_metadata(item)
        return item

    def read_user_metadata(self, item: dict[str, Any], use_cache: bool = True) -> None:  # noqa: ARG002
        """Put into an item what its file and its user say; what is wrong with either becomes its description."""
        path = Path(item["filename"])
        problems: list[str] = []
        metadata: dict[str, Any] = {}
        class_word = found = None
        try:
            metadata = read_sidecar(path)
            class_word = remembered(path)
        except (SidecarError, ClassWordError) as error:
            problems.append(f"{error}.")
        try:
            found = outline(path)
            if found.family is not self.network.family:
                raise ConceptFileError(
                    path,
                    f"is for {found.family.value}, not {self.network.method}",
                    "Put it into the folder of its kind",
                )
        except ConceptFileError as error:
            problems.append(f"{error}")
        if set(":<>") & set(item["name"]):
            problems.append(f"'{item['name']}' cannot be written in a prompt. Give the file a name without : < >.")
        description = metadata.get("description")
        if not isinstance(description, str):
            description = self.find_description(os.path.splitext(path)[0]) or ""
        if host().options.get("extra_networks_card_description_is_html", False):
            problems = [html.escape(problem) for problem in problems]
        item["user_metadata"] = metadata
        item["description"] = "\n".join(filter(None, [*problems, description]))
        item["metadata"] = dict(found.metadata) if found else {}
        item["tokens"] = self.network.tokens_of(item["name"], found) if found else ()
        words = self.network.card_words(item["name"], chosen_token(item, metadata), class_word)
        item["prompt"] = self._inserted(item["name"], metadata, words)
        # The host does not escape these.
        item["search_terms"] = [html.escape(term) for term in (self.search_terms_from_path(str(path)), *words)]

    def allowed_directories_for_previews(self) -> list[str]:
        """See the host's class."""
        return [str(self.network.folder.path())]

    def create_user_metadata_editor(self, ui: Any, tabname: str) -> MetadataEditor:
        """See the host's class."""
        return MetadataEditor(ui, tabname, self, self.network.card_fields)

    def _inserted(self, name: str, metadata: dict[str, Any], words: list[str]) -> str:
        """Return what a click inserts, as JavaScript."""
        if self.network.has_strength:
            begin, end = f"<{self.network.keyword}:{name}:", ">"
            strength = preferred_strength(metadata)
            number = json.dumps(f"{strength:g}") if strength else "opts.extra_networks_default_multiplier"
            return f"{json.dumps(begin)} + {number} + {json.dumps(' '.join([end, *words]))}"
        mark = self.network.mark(name)
        # To take the text out again at a second click, the host's page looks for a name with a number literally, and
        # for anything else as a pattern.
        if _PATTERN.search(" ".join([mark, *words])):
            mark = f"{mark[:-1]}:1>"
        return json.dumps(" ".join([mark, *words]))


def register_pages() -> None:
    """Add the tabs; the host takes them up anew whenever it makes its page."""
    for network in NETWORKS:
        ui_extra_networks.register_page(ConceptsPage(network))
