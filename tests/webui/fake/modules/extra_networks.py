from __future__ import annotations

import re
from collections import defaultdict

extra_network_registry: dict[str, ExtraNetwork] = {}


class ExtraNetworkParams:
    def __init__(self, items: list[str]) -> None:
        self.items = self.positional = items


class ExtraNetwork:
    def __init__(self, name: str) -> None:
        self.name = name


def register_extra_network(network: ExtraNetwork) -> None:
    extra_network_registry[network.name] = network


def parse_prompts(prompts: list[str]) -> tuple[list[str], dict[str, list[ExtraNetworkParams]]]:
    found: dict[str, list[ExtraNetworkParams]] = defaultdict(list)

    def take(match: re.Match[str]) -> str:
        if match[1] not in extra_network_registry:
            return match[0]
        found[match[1]].append(ExtraNetworkParams(match[2].split(":")))
        return ""

    return [re.sub(r"<(\w+):([^>]+)>", take, prompt) for prompt in prompts], found
