"""What AlignIT costs, measured in a real WebUI: time, memory, text-encoder passes, UNet calls, and what stays behind.

    python benchmarks/webui.py --pairs 24 [--webui DIR] [--out benchmarks/webui.json]

Prints a report, and writes it to benchmarks/results.md, with the raw numbers beside it in --out. The README.md in this
folder says how to read it.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import (
    HERE,
    SIZE,
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
from tests.host.webui import WebUI

WANTED_RATIO = 1.01
TINY = {"width": 64, "height": 64}
ONE_STEP = {**TINY, "steps": 1}
WARM_UP = 2
KEPT_AFTER = 10


# What is compared


BASE = picture("a cat playing with a ball #")
EMBEDDING = picture("a my-cat playing with a ball #")
ALIGNIT = picture("a my-cat playing with a ball #", "my-cat=cat")


@dataclass(frozen=True)
class Comparison:
    """Two kinds of pictures to take the time of, A without and B with AlignIT."""

    name: str
    a: Arm
    b: Arm
    model: str = "tiny-sd1"
    share: float = 1.0  # of --pairs
    wanted: bool = False


MAIN = "AlignIT / its base prompt, plain"
NOISE = "base / base: the noise"
FIXED_COST = "AlignIT / base, 64x64 and 1 step: what a picture costs more, whatever its size"
COMPARISONS = [
    Comparison(MAIN, BASE, ALIGNIT, wanted=True),
    Comparison("AlignIT / the embedding, plain", EMBEDDING, ALIGNIT, share=0.25, wanted=True),
    Comparison(
        "AlignIT, steps 0.2 to 0.8 / base",
        BASE,
        picture("a my-cat playing with a ball #", "my-cat=cat", 1.0, 0.2, 0.8),
        share=0.25,
        wanted=True,
    ),
    Comparison(
        "AlignIT, strength 0.5 / base",
        BASE,
        picture("a my-cat playing with a ball #", "my-cat=cat", 0.5),
        share=0.25,
        wanted=True,
    ),
    Comparison(
        "AlignIT / base, SDXL",
        BASE,
        picture("a xl-cat playing with a ball #", "xl-cat=cat"),
        model="tiny-sdxl",
        share=0.25,
        wanted=True,
    ),
    *(
        Comparison(
            f"AlignIT, {controls} / base",
            BASE,
            picture("a my-cat playing with a ball #", "my-cat=cat", 1.0, 0.0, 1.0, controls),
            share=0.25,
            wanted=True,
        )
        for controls in ("keys", "layers down mid", "falling")
    ),
    Comparison(
        FIXED_COST,
        picture("a cat playing with a ball #", **ONE_STEP),
        picture("a my-cat playing with a ball #", "my-cat=cat", **ONE_STEP),
        share=6,
    ),
    Comparison(
        "the same, with the same prompt each time, which the host need not encode again",
        picture("a cat playing with a ball", **ONE_STEP),
        picture("a my-cat playing with a ball", "my-cat=cat", **ONE_STEP),
        share=6,
    ),
    Comparison(NOISE, BASE, BASE, share=0.25),
]
RANGE = COMPARISONS[2].b
SDXL = COMPARISONS[4].b

LONG = ", ".join(["a garden with old trees in the evening"] * 12)
HIRES: Payload = {"enable_hr": True, "hr_scale": 1.5, "hr_upscaler": "Latent", "denoising_strength": 0.7}


@dataclass(frozen=True)
class Counted:
    """Two kinds of pictures to count passes and calls of."""

    name: str
    a: Arm
    b: Arm
    concepts: int = 1
    model: str = "tiny-sd1"
    encoders: int = 1


def counted(case: str, words: str, class_words: str, concepts: int = 1, **more: Any) -> Counted:
    """Make a case from a prompt with its concepts; their class words stand in the prompt without."""
    plain = words
    for pair in class_words.split(", "):
        name, word = pair.split("=")
        plain = plain.replace(name, word)
    return Counted(case, picture(plain, **TINY, **more), picture(words, class_words, **TINY, **more), concepts)


PROMPT = "a my-cat playing with a ball #"
COUNTED = [
    counted("one concept", PROMPT, "my-cat=cat"),
    counted("one concept, named twice", "a my-cat looks at a my-cat #", "my-cat=cat"),
    counted("two concepts", "a my-cat looks at a my-dog #", "my-cat=cat, my-dog=dog", concepts=2),
    counted("one concept, prompt of two chunks", f"a my-cat playing #, {LONG}", "my-cat=cat"),
    counted("one concept, prompt editing", "a my-cat # with a [ball:bone:0.5]", "my-cat=cat"),
    counted("one concept, batch of 4", PROMPT, "my-cat=cat", batch_size=4),
    counted("one concept, hires fix", PROMPT, "my-cat=cat", **HIRES),
    counted("one concept, the same prompt as before", "a my-cat playing with a ball", "my-cat=cat"),
    Counted("one concept, steps 0.2 to 0.8", BASE, RANGE),
    Counted("one concept, SDXL", BASE, SDXL, model="tiny-sdxl", encoders=2),
]


# Measuring


def take_times(webui: WebUI, comparison: Comparison, pairs: int) -> Payload:
    """Alternate A B B A A B B A ...; return seconds and CPU seconds, [pairs, 2] each."""
    load(webui, comparison.model)
    for _ in range(WARM_UP):
        generate(webui, comparison.a)
        generate(webui, comparison.b)
    times = np.empty((pairs, 2, 2))
    for pair in range(pairs):
        for which in (0, 1) if pair % 2 == 0 else (1, 0):
            times[pair, which] = generate(webui, (comparison.a, comparison.b)[which])
    return {"seconds": times[..., 0].round(5).tolist(), "cpu_seconds": times[..., 1].round(5).tolist()}


def count_passes(webui: WebUI, case: Counted) -> Payload:
    """Count text-encoder passes and UNet calls of one picture of A and one of B."""
    load(webui, case.model)
    generate(webui, case.a)  # the host keeps the negative prompt's conditioning too: warm for both
    result: Payload = {"concepts": case.concepts, "encoders": case.encoders}
    for name, arm in (("plain", case.a), ("alignit", case.b)):
        generate(webui, arm, reference={"count": True})
        result[name] = webui.counts()
    return result


def take_peaks(webui: WebUI, pairs: int) -> list[list[float]]:
    """Alternate as above; return the peaks of the resident memory during a generation, [pairs, 2] in MiB."""
    peaks = np.empty((pairs, 2))
    for pair in range(pairs):
        for which in (0, 1) if pair % 2 == 0 else (1, 0):
            forget_peak(webui)
            generate(webui, (BASE, ALIGNIT)[which])
            peaks[pair, which] = memory_field(webui, "VmHWM")
    return peaks.round(3).tolist()  # type: ignore[no-any-return]


def take_kept(webui: WebUI) -> Payload:
    """Look at what is alive before and after generations of each kind that ought to leave nothing behind."""
    kept = {}
    for name, arm in (("at all steps", ALIGNIT), ("steps 0.2 to 0.8", RANGE)):
        generate(webui, arm, **TINY)
        generate(webui, BASE, **TINY)  # the host keeps what it encoded last: the same before and after
        before = webui.state(objects=True)
        rss = memory_field(webui, "VmRSS")
        for _ in range(KEPT_AFTER):
            generate(webui, arm, **TINY)
        generate(webui, BASE, **TINY)
        after = webui.state(objects=True)
        same = {key: before[key] == after[key] for key in ("weights", "hooks", "overrides", "patches", "callbacks")}
        kept[name] = {
            "before": before["objects"],
            "after": after["objects"],
            "rss_growth_mib": round(memory_field(webui, "VmRSS") - rss, 2),
            "same": same,
        }
    return kept


# The report


def times_row(name: str, times: Payload) -> list[str]:
    """Write a comparison's row of the table of times."""
    seconds, cpu = np.array(times["seconds"]), np.array(times["cpu_seconds"])
    ratio, ratio_cpu = (median_interval(t[:, 1] / t[:, 0]) for t in (seconds, cpu))
    extra = median_interval((cpu[:, 1] - cpu[:, 0]) * 1000)
    row = [name, str(len(seconds)), f"{np.median(seconds[:, 0]):.3f}"]
    for middle, low, high in (ratio, ratio_cpu):
        row.append(f"{middle:.4f} ({low:.4f} to {high:.4f})")
    fastest = np.sort(cpu, axis=0)[: max(1, len(cpu) // 4)].mean(axis=0)
    row.append(f"{fastest[1] / fastest[0]:.4f}")
    return [*row, "{:+.1f} ({:+.1f} to {:+.1f})".format(*extra)]


def small_print(times: dict[str, Payload]) -> str:
    """Say how far the noise reaches, and what the ratio is by the cost of a picture of one step."""
    noise = median_interval(np.divide(*np.array(times[NOISE]["cpu_seconds"]).T[::-1]))
    cost = np.array(times[FIXED_COST]["cpu_seconds"])
    extra = median_interval((cost[:, 1] - cost[:, 0]) * 1000)
    plain = float(np.median(np.array(times[MAIN]["cpu_seconds"])[:, 0])) * 1000
    return (
        "The same picture as A and as B, which ought to give 1, gives {:.4f} ({:.4f} to {:.4f}) of CPU time: ratios of "
        "these pictures are no better than that. ".format(*noise)
        + "Steadier is what AlignIT adds to a picture of one step: {:.1f} ms ({:.1f} to {:.1f}) of CPU; ".format(*extra)
        + f"of the {plain:.0f} ms of the plain picture above that is a ratio of {1 + extra[0] / plain:.4f} "
        f"({1 + extra[1] / plain:.4f} to {1 + extra[2] / plain:.4f}), if a step costs nothing more."
    )


def report(result: Payload) -> str:
    """Write everything as Markdown."""
    times, counts, peaks = result["times"], result["counts"], np.array(result["peak_mib"])
    main = np.array(times[MAIN]["seconds"])
    ratio, low, high = median_interval(main[:, 1] / main[:, 0])
    ratios = {
        c.name: float(np.median(np.divide(*np.array(times[c.name]["seconds"]).T[::-1])))
        for c in COMPARISONS
        if c.wanted
    }
    over = [name for name, value in ratios.items() if value > WANTED_RATIO]
    more_passes = {
        name: row["alignit"]["encoder_passes"] - row["plain"]["encoder_passes"] for name, row in counts.items()
    }
    too_many = [
        f"{name} ({more_passes[name]})"
        for name, row in counts.items()
        if more_passes[name] > row["concepts"] * row["encoders"]
    ]
    same_unet = all(
        row["plain"][key] == row["alignit"][key] for row in counts.values() for key in ("unet_calls", "unet_rows")
    )
    clean = all(row["before"] == row["after"] and all(row["same"].values()) for row in result["kept"].values())
    unit = ("text encoder", "text encoders")
    summary = table(
        ["wanted", "measured", "reached"],
        [
            [
                f"at most {WANTED_RATIO} of the plain time",
                f"{ratio:.4f} ({low:.4f} to {high:.4f}), median of {len(main)} pairs",
                verdict(ratio <= WANTED_RATIO and len(main) >= 20),
            ],
            [
                "the same with strength, steps, SDXL",
                f"at most {max(ratios.values()):.4f}" + (f"; above: {', '.join(over)}" if over else ""),
                verdict(not over),
            ],
            ["no extra UNet work", "calls and rows equal" if same_unet else "not equal, see below", verdict(same_unet)],
            [
                "at most one extra text-encoder pass per concept (and text encoder: SDXL has two)",
                "in all cases below" if not too_many else f"not in: {', '.join(too_many)}",
                verdict(not too_many),
            ],
            [
                "nothing kept after the generation",
                f"live tensors, their bytes, AlignIT's objects, hooks and patches "
                f"{'equal' if clean else 'not equal'} before and after {KEPT_AFTER} generations",
                verdict(clean),
            ],
        ],
    )
    difference = median_interval(peaks[:, 1] - peaks[:, 0])
    return "\n".join(
        [
            "# What AlignIT costs: results",
            "",
            "Written by `benchmarks/webui.py`; [README.md](README.md) says how it measures and how to read this.",
            "",
            table(["", ""], [[key, value] for key, value in result["facts"].items()]),
            "",
            "## Wanted and measured",
            "",
            summary,
            "",
            small_print(times),
            "",
            "## Time per picture",
            "",
            f"{SIZE['width']}x{SIZE['height']}, {SIZE['steps']} steps, a new prompt and seed for each picture unless "
            "said otherwise. Ratios and differences are medians over pairs, with 95 % bootstrap intervals; of the "
            "fastest: the ratio of the CPU time of the fastest quarter of B to that of A.",
            "",
            table(
                [
                    "B / A",
                    "pairs",
                    "A, seconds",
                    "ratio of time",
                    "ratio of CPU time",
                    "of the fastest",
                    "B - A, ms of CPU",
                ],
                [times_row(name, row) for name, row in times.items()],
            ),
            "",
            "## Text-encoder passes and UNet calls of a generation",
            "",
            table(
                ["prompt", "encoder passes, plain", "with AlignIT", "UNet calls, plain", "with AlignIT"],
                [
                    [
                        f"{name} ({row['encoders']} {unit[row['encoders'] > 1]})",
                        *(row[arm]["encoder_passes"] for arm in ("plain", "alignit")),
                        *(f"{row[arm]['unet_calls']} ({row[arm]['unet_rows']} rows)" for arm in ("plain", "alignit")),
                    ]
                    for name, row in counts.items()
                ],
            ),
            "",
            "## Memory",
            "",
            f"Peak of the server's resident memory during a generation, medians of {len(peaks)} pairs: plain "
            f"{np.median(peaks[:, 0]):.1f} MiB, AlignIT {np.median(peaks[:, 1]):.1f} MiB; difference within a pair "
            "{:+.2f} MiB ({:+.2f} to {:+.2f}).".format(*difference),
            "",
            table(
                [f"{KEPT_AFTER} generations", "live tensors", "their bytes", "AlignIT's objects", "resident memory"],
                [
                    [
                        name,
                        *(f"{row['before'][key]} -> {row['after'][key]}" for key in ("tensors", "tensor_bytes")),
                        "{} -> {}".format(*(sum(row[when]["alignit"].values()) for when in ("before", "after"))),
                        f"{row['rss_growth_mib']:+.2f} MiB",
                    ]
                    for name, row in result["kept"].items()
                ],
            ),
            "",
        ]
    )


def main() -> None:
    """Measure everything on one server, in one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=24, help="pairs of pictures for each comparison (24)")
    parser.add_argument("--webui", type=Path, default=WEBUI.directory, help="the WebUI's folder ($WEBUI_DIR)")
    parser.add_argument("--out", type=Path, default=HERE / "webui.json", help="raw numbers; results.md goes beside it")
    arguments = parser.parse_args()
    with WebUI(arguments.webui) as webui:
        result: Payload = {"facts": facts(webui, arguments.pairs), "times": {}, "counts": {}}
        for comparison in COMPARISONS:
            pairs = max(2, round(arguments.pairs * comparison.share))
            result["times"][comparison.name] = row = take_times(webui, comparison, pairs)
            print(*times_row(comparison.name, row), sep="  ", file=sys.stderr, flush=True)
        for case in COUNTED:
            result["counts"][case.name] = count_passes(webui, case)
        load(webui, "tiny-sd1")
        result["peak_mib"] = take_peaks(webui, max(2, arguments.pairs // 3))
        result["kept"] = take_kept(webui)
        errors = webui.exceptions()
    if errors:
        raise SystemExit(f"The server had errors, so this measured something else:\n{errors}")
    arguments.out.write_text(json.dumps(result) + "\n")
    text = report(result)
    arguments.out.with_name("results.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
