"""Write docs/hosts.md: what was tested in which host, from the results of the tests.

    python -m pytest tests/forks --junitxml results.xml
    python -m tools.make_hosts results.xml ...

Results are kept in docs/hosts.json, host by host: a host that was not tested this time keeps its column.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tests.host.kinds import KINDS

DOCS = Path(__file__).parents[1] / "docs"
RESULTS, PAGE = DOCS / "hosts.json", DOCS / "hosts.md"
# What a test of several cases is about.
GROUPS = {
    "test_off_is_the_host_without_alignit": "off, bit-identical to the host without AlignIT",
    "test_the_picture_is_the_references": "as the reference in the same host",
    "test_the_picture_is_the_webuis": "as the WebUI, within 2 of 255",
    "test_attention_maps": "attention map",
}
LABELS = {
    "test_strength_zero_is_the_class_word_and_all_layers_are_all": "strength 0 is the class word, all layers are all",
    "test_without_a_negative_prompt_at_cfg_1": "CFG 1, without a negative prompt",
    "test_another_clip_skip_and_another_emphasis": "clip skip, another emphasis",
    "test_hires_fix": "hires fix",
    "test_img2img": "img2img",
    "test_cross_attention_that_a_patch_computes": "cross-attention that a patch computes, as an IP-Adapter",
    "test_compare": "Compare",
    "test_wrong_arguments_are_refused": "wrong arguments of the API are refused",
    "test_own_routes": "AlignIT's own API",
    "test_the_info_lists_the_embedding_as_the_host_does": "the info lists the embeddings as the host does",
    "test_nothing_is_left_behind": "nothing left behind, after errors too",
    "test_the_page": "the page in Chromium",
}
HEAD = """# Hosts

What is tested in which host, with one model in all of them: [the miniature](../miniature/README.md) in Stable
Diffusion 1's own widths, 64x64, 4 steps, on the CPU in float32. The reference is Algorithm 1 done by index in that host
(`tests/forks/probe`); it shares no code with AlignIT. What is not here was not tested in forks: SDXL, SD 2, a GPU with
its attention optimisations, offloading and weights in fewer bits, LoRA, `torch.compile`, ControlNet. The WebUI itself
is tested in much more detail (`tests/host`).

"""


def main(files: list[str]) -> None:
    """Read results, and write the page."""
    known: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"versions": {}, "results": {}}
    for file in files:
        for case in ElementTree.parse(file).iter("testcase"):
            _read(case, known)
    RESULTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    PAGE.write_text(HEAD + _table(known))


def _read(case: ElementTree.Element, known: dict[str, Any]) -> None:
    found = re.fullmatch(r"(test_\w+)\[(.*)\]", case.get("name", ""))
    if not found:
        return
    test, labels = found.groups()
    kind = next((kind.name for kind in KINDS if labels == kind.name or labels.startswith(f"{kind.name}-")), None)
    if kind is None:
        return
    label = labels.removeprefix(kind).removeprefix("-")
    row = f"{GROUPS[test]}: {label}" if test in GROUPS else LABELS.get(test, test)
    outcome = "yes"
    for problem in ("failure", "error", "skipped"):
        element = case.find(problem)
        if element is not None:
            message = element.get("message", "")
            outcome = "no"
            if problem == "skipped":
                # The path is the tester's own.
                outcome = "not run: " + re.sub(r" at \S+ \(set (\w+)\)", r" was at hand (\1)", message)
            elif "on setup" in message:
                outcome = "not run: the host did not start"
    known["results"].setdefault(row, {})[kind] = outcome
    for item in case.iter("property"):
        if item.get("name") == "version":
            known["versions"][kind] = item.get("value")


def _table(known: dict[str, Any]) -> str:
    names = [kind.name for kind in KINDS]
    reasons: dict[str, int] = {}

    def cell(of_row: dict[str, str], name: str) -> str:
        outcome = of_row.get(name, "not run: it was not tested since this test was written")
        if not outcome.startswith("not run"):
            return outcome
        reason = outcome.removeprefix("not run: ")
        return f"not run ({reasons.setdefault(reason, len(reasons) + 1)})"

    lines = [
        f"| | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
        f"| version | {' | '.join(known['versions'].get(name, 'not run') for name in names)} |",
        *(
            f"| {row} | {' | '.join(cell(of_row, name) for name in names)} |"
            for row, of_row in sorted(known["results"].items())
        ),
    ]
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join([*lines, "", "Not run:", "", *notes, ""])


if __name__ == "__main__":
    main(sys.argv[1:])
