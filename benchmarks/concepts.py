"""What concepts that change weights cost, beside custom-diffusion-webui's way of using them, measured in a real WebUI.

    python benchmarks/concepts.py --pairs 10 [--webui DIR] [--out benchmarks/concepts.json]

Prints a report, and writes it to concepts.md beside --out, which gets the raw numbers. The README.md in this folder
says how to read it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import (
    HERE,
    Arm,
    Payload,
    facts,
    forget_peak,
    generate,
    load,
    median_interval,
    memory_field,
    picture,
    table,
    verdict,
)

from tests.host.kinds import WEBUI
from tests.host.webui import WebUI, made_by

WANTED_RATIO = 1.02
WANTED_CONTROLS_RATIO = 1.01
WANTED_TIMES_CHEAPER = 10
WARM_UP = 1
TINY, FULL = "tiny-sd1", "full-sd1"
SMALL = {"width": 64, "height": 64, "steps": 2}
PARTS_HEAD = [
    "picture",
    "activation",
    "in the first call of the UNet",
    "in each later call",
    "encoding dummy prompts",
    "ratio, 20 steps",
]
STEPS = 20  # of the picture that the parts are added up for

PLAIN = "plain"
ALIGNIT = "AlignIT, Custom Diffusion"
HOOKS = "AlignIT off, Custom Diffusion itself"
CATVERSION = "AlignIT, CatVersion"
SWAP = "the weights swapped in and out"
FIRST = "AlignIT, Custom Diffusion, its file read again"
CONTROLS = {f"AlignIT, an embedding, {text}": text for text in ("keys", "layers down mid", "falling", "0.5")}


def arms(model: str, **more: Any) -> dict[str, Arm]:
    """Return the kinds of pictures to compare, by name."""
    thing = model.replace("sd1", "thing")
    text = f"a {thing} playing with a ball #"
    return {
        PLAIN: picture("a cat playing with a ball #", **more),
        ALIGNIT: picture(f"{text} <delta:{thing}:1>", f"{thing}=cat", **more),
        HOOKS: picture(f"{text} <delta:{thing}:1>", **more),
        CATVERSION: picture(
            f"a cat playing with a ball # <catversion:{thing}-adapter>", f"{thing}-adapter=cat", **more
        ),
        SWAP: picture(f"{text} <swap:{thing}:1>", **more),
    }


def controlled(model: str, **more: Any) -> dict[str, Arm]:
    """Return pictures of an embedding with controls, by name; but for a strength, each needs hooks in all layers."""
    thing = model.replace("sd1", "thing")
    text = f"a {thing} playing with a ball #"
    return {name: picture(text, f"{thing}=cat", 1.0, 0.0, 1.0, option, **more) for name, option in CONTROLS.items()}


def start(directory: Path) -> WebUI:
    """Return a server with the benchmark's models and its extension, not started yet."""
    webui = WebUI(directory, extensions=(HERE / "meter",))
    made = made_by(directory, HERE / "make_models.py", webui.cache / "checkpoints")
    (webui.root / FULL).symlink_to(made / FULL)
    for folder in (made / "models").iterdir():
        # Links, as a checkpoint is large; copies of what is touched.
        target = webui.data / "models" / folder.name
        target.symlink_to(folder) if folder.name == "Stable-diffusion" else shutil.copytree(folder, target)
    shutil.copytree(made / "embeddings", webui.embeddings, dirs_exist_ok=True)
    return webui


# Measuring


def check(webui: WebUI, kinds: dict[str, Arm]) -> None:
    """Make sure that the pictures are what they are taken for.

    Raises:
        SystemExit: They are not.
    """
    made = {name: webui.txt2img(**arm(1)) for name, arm in kinds.items()}
    notes = [
        note for made_one in made.values() if (note := made_one.info["extra_generation_params"].get("AlignIT note"))
    ]
    difference = np.abs(made[HOOKS][0].pixels.astype(int) - made[SWAP][0].pixels).max()
    different = {pictures[0].png for name, pictures in made.items() if name != SWAP}
    if notes or difference > 1 or len(different) < len(made) - 1:
        raise SystemExit(f"This would measure something else: {notes}, {difference}, {len(different)} pictures")


def take(webui: WebUI, kinds: dict[str, Arm], pairs: int, measure: Callable[[str, Arm], Payload]) -> list[Payload]:
    """Go through the kinds forwards, backwards, forwards, ...; return what is measured, by kind, for each time."""
    for arm in kinds.values():
        for _ in range(WARM_UP):
            generate(webui, arm)
    rounds = []
    for pair in range(pairs):
        names = list(kinds) if pair % 2 == 0 else list(kinds)[::-1]
        rounds.append({name: measure(name, kinds[name]) for name in names})
        print(pair + 1, {name: round(row["cpu"], 3) for name, row in rounds[-1].items()}, file=sys.stderr, flush=True)
    return rounds


def take_time(webui: WebUI, arm: Arm, **more: Any) -> Payload:
    """Make a picture; return its times in seconds and its peak of memory in MiB."""
    forget_peak(webui)
    seconds, cpu = generate(webui, arm, **more)
    return {"seconds": round(seconds, 5), "cpu": round(cpu, 5), "peak": memory_field(webui, "VmHWM")}


def take_parts(webui: WebUI, name: str, arm: Arm, delta: Path | None = None) -> Payload:
    """The same, with where the time went; the delta is the file that is to be read again for FIRST."""
    if name == FIRST and delta:
        os.utime(delta)
    row = take_time(webui, arm, alwayson_scripts={"Meter": {"args": [{"on": True}]}})
    return row | webui.get("/meter")


def measure(webui: WebUI, pairs: int) -> Payload:
    """Measure everything on one server."""
    result: Payload = {"facts": facts(webui, pairs)}
    tiny = arms(TINY)
    check(webui, tiny)
    result["times"] = take(webui, tiny, pairs, lambda _name, arm: take_time(webui, arm))
    small = {PLAIN: tiny[PLAIN]} | controlled(TINY)
    result["tiny_parts"] = take(webui, small, pairs, lambda name, arm: take_parts(webui, name, arm))
    load(webui, FULL)
    full = arms(FULL, **SMALL) | controlled(FULL, **SMALL)
    generate(webui, full[PLAIN])
    result["peak_before"] = [take_time(webui, full[PLAIN])["peak"] for _ in range(3)]
    check(webui, full)
    full[FIRST] = full[ALIGNIT]
    delta = webui.data / "models" / "deltas" / "full-thing.delta.safetensors"
    result["parts"] = take(webui, full, pairs, lambda name, arm: take_parts(webui, name, arm, delta))
    result["copies"] = {}
    for name, arm in full.items():
        if name == FIRST:
            os.utime(delta)
        generate(webui, arm, alwayson_scripts={"Meter": {"args": [{"count": True}]}})
        result["copies"][name] = webui.get("/meter")["copies"]
    return result


# The report


def column(rounds: list[Payload], name: str, value: Callable[[Payload], float]) -> np.ndarray:
    """Return a number of each time that a kind was measured."""
    return np.array([value(row[name]) for row in rounds])


def seconds_of(row: Payload) -> float:
    """The time that a request took, in seconds."""
    return float(row["seconds"])


def cpu_of(row: Payload) -> float:
    """The CPU time of the server's process in it, in seconds."""
    return float(row["cpu"])


def interval(numbers: np.ndarray, form: str) -> str:
    """Write a median with its interval."""
    return "{0:{3}} ({1:{3}} to {2:{3}})".format(*median_interval(numbers), form)


def activation(row: Payload) -> float:
    """Making a concept active and no longer so, in ms: finding, reading or looking up, checking, hooks, weights."""
    return 1000 * sum(row["parts"].get(part, 0) for part in ("activate", "deactivate"))


def values(row: Payload) -> float:
    """What AlignIT's hooks take in the first call of the UNet, where keys and values are computed, in ms."""
    return float(1000 * row["in_hooks"][0])


def each_call(row: Payload) -> float:
    """What they take in a later call, in ms."""
    return float(1000 * row["in_hooks"][1])


def extra(row: Payload) -> float:
    """What a picture of STEPS steps costs more, by its parts, in ms."""
    return activation(row) + values(row) + (STEPS - 1) * each_call(row) + 1000 * row["parts"].get("dummy_prompts", 0)


def whole(row: Payload) -> float:
    """What a plain picture of STEPS steps costs, by its parts, in ms."""
    return 1000 * (row["parts"]["all"] - sum(row["unet"]) + STEPS * row["unet"][1])


def time_rows(rounds: list[Payload]) -> list[list[str]]:
    """The table of times of whole pictures."""
    plain, plain_cpu = column(rounds, PLAIN, seconds_of), column(rounds, PLAIN, cpu_of)
    rows = []
    for name in rounds[0]:
        seconds, cpu = column(rounds, name, seconds_of), column(rounds, name, cpu_of)
        ratios = [interval(seconds / plain, ".4f"), interval(cpu / plain_cpu, ".4f")] if name != PLAIN else ["1", "1"]
        rows.append([name, f"{np.median(seconds):.3f}", f"{np.median(cpu):.3f}", *ratios])
    return rows


def part_rows(rounds: list[Payload]) -> list[list[str]]:
    """The table of parts."""
    plain = column(rounds, PLAIN, whole)
    rows = []
    for name in rounds[0]:
        dummies = column(rounds, name, lambda row: 1000 * row["parts"].get("dummy_prompts", 0))
        calls = column(rounds, name, each_call)
        ratio = column(rounds, name, extra) / plain
        rows.append(
            [
                name,
                interval(column(rounds, name, activation), ".1f"),
                interval(column(rounds, name, values), ".1f"),
                f"{np.median(calls):.2f}",
                f"{np.median(dummies):.1f}",
                interval(1 + ratio, ".4f") if name != PLAIN else "1",
            ]
        )
    return rows


def peak_rows(result: Payload) -> list[list[str]]:
    """The table of memory and of copies."""
    rounds = result["parts"]
    before = float(np.median(result["peak_before"]))
    rows = [["plain, before any concept was used", f"{before:.0f}", "", "", ""]]
    for name in rounds[0]:
        peaks = column(rounds, name, lambda row: row["peak"])
        counted = result["copies"][name]
        rows.append([name, f"{np.median(peaks):.0f}", f"{np.median(peaks) - before:+.0f}"])
        rows[-1] += [str(counted["made"]), str(counted["written"])]
    return rows


def report(result: Payload) -> str:
    """Write everything as Markdown."""
    times, parts, copies = result["times"], result["parts"], result["copies"]
    plain = column(times, PLAIN, cpu_of)
    ours = (ALIGNIT, HOOKS, CATVERSION)
    ratios = {name: column(times, name, cpu_of) / plain for name in ours}
    swap = column(parts, SWAP, activation)
    cheaper = {name: swap / column(parts, name, activation) for name in (ALIGNIT, HOOKS)}
    injecting = column(parts, ALIGNIT, lambda row: activation(row) + values(row))
    cheaper[f"{ALIGNIT}, with computing what it injects"] = swap / injecting
    summary = [
        [
            f"{name}: at most {WANTED_RATIO} of the plain time",
            interval(value, ".4f"),
            verdict(np.median(value) <= WANTED_RATIO),
        ]
        for name, value in ratios.items()
    ]
    by_parts = {name: 1 + column(parts, name, extra) / column(parts, PLAIN, whole) for name in ours}
    summary += [
        [
            f"the same by parts, at the real size: at most {WANTED_RATIO}",
            "; ".join(f"{name}: {interval(value, '.4f')}" for name, value in by_parts.items()),
            verdict(all(np.median(value) <= WANTED_RATIO for value in by_parts.values())),
        ]
    ]
    for size, rounds in (("at the real size", parts), (f"on {TINY}", result["tiny_parts"])):
        for name in CONTROLS:
            ratio = 1 + column(rounds, name, extra) / column(rounds, PLAIN, whole)
            wanted = f"{name}, by parts {size}: at most {WANTED_CONTROLS_RATIO}"
            summary.append([wanted, interval(ratio, ".4f"), verdict(np.median(ratio) <= WANTED_CONTROLS_RATIO)])
    summary += [
        [
            f"{name}: a cached activation {WANTED_TIMES_CHEAPER} times cheaper than swapping",
            f"{interval(value, '.1f')} times",
            verdict(np.median(value) >= WANTED_TIMES_CHEAPER),
        ]
        for name, value in cheaper.items()
    ]
    made = {name: copies[name] for name in ours}
    none = all(row == {"made": 0, "written": 0} for row in made.values())
    summary.append(
        ["activating clones no model weight", "none made, none written to" if none else str(made), verdict(none)]
    )
    return "\n".join(
        [
            "# What concepts that change weights cost: results",
            "",
            "Written by `benchmarks/concepts.py`; [README.md](README.md) says how it measures and how to read this.",
            "",
            table(["", ""], [[key, value] for key, value in result["facts"].items()]),
            "",
            "## Wanted and measured",
            "",
            table(["wanted", "measured", "reached"], summary),
            "",
            "Reached or not goes by the median. Whole pictures vary by some percent on a machine that is busy: "
            "a ratio below 1 is noise. What is added up from its parts varies far less.",
            "",
            "## Time from request to picture",
            "",
            f"{TINY}, 256x256, 20 steps. Medians; ratios to the plain picture of the same time, with 95 % bootstrap "
            "intervals.",
            "",
            table(["picture", "seconds", "seconds of CPU", "ratio of time", "ratio of CPU time"], time_rows(times)),
            "",
            "## Where it goes, with matrices of the real size",
            "",
            f"{FULL}, 64x64, ms of CPU of the generation's thread. The ratio is that of a picture of {STEPS} steps, "
            f"added up from its parts, on the smallest of pictures: a plain call of the UNet takes "
            f"{1000 * np.median(column(parts, PLAIN, lambda row: row['unet'][1])):.0f} ms, and more in a larger one.",
            "",
            table(PARTS_HEAD, part_rows(parts)),
            "",
            f"The same with {TINY}, 256x256:",
            "",
            table(PARTS_HEAD, part_rows(result["tiny_parts"])),
            "",
            "## Memory",
            "",
            "Peak of the server's resident memory in such pictures, in MiB, medians; and, counted in one picture each, "
            "tensors of the shape of a key or value projection that were made, and changes of the model's in place.",
            "",
            table(["picture", "peak", "more than before", "made", "changed in place"], peak_rows(result)),
            "",
        ]
    )


def main() -> None:
    """Measure everything on one server, in one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10, help="times that each kind of picture is made (10)")
    parser.add_argument("--webui", type=Path, default=WEBUI.directory, help="the WebUI's folder ($WEBUI_DIR)")
    parser.add_argument(
        "--out", type=Path, default=HERE / "concepts.json", help="raw numbers; the report goes beside it"
    )
    arguments = parser.parse_args()
    with start(arguments.webui) as webui:
        result = measure(webui, arguments.pairs)
        errors = webui.exceptions()
    if errors:
        raise SystemExit(f"The server had errors, so this measured something else:\n{errors}")
    arguments.out.write_text(json.dumps(result) + "\n")
    text = report(result)
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
