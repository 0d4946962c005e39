"""The kinds of concepts that prompts name by ``<keyword:NAME>``: one line for each record."""

from __future__ import annotations

from alignit.webui.networks.catversion import CATVERSION
from alignit.webui.networks.deltas import DELTA
from alignit.webui.networks.network import Network

NETWORKS: list[Network] = [DELTA, CATVERSION]
"""In the order in which their concepts are looked for in a prompt, and their tabs stand in the page."""
