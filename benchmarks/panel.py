"""What AlignIT's panel costs while a prompt is typed, in the page of a real WebUI beside one without AlignIT.

    python benchmarks/panel.py --rounds 8 [--webui DIR] [--out benchmarks/panel.json]

Prints a report, and writes it to benchmarks/panel.md, with the raw numbers beside it in --out. The README.md in this
folder says how to read it.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from measuring import HERE, Payload, facts, generate, median_interval, picture, table
from playwright.sync_api import CDPSession, Page

from tests.host.browser import NO_BROWSER, Tab, chromium, find_browser
from tests.host.kinds import WEBUI
from tests.host.webui import WebUI

TEXT = "a photo of my-cat and <my-toy=robot> in the garden, morning light, with a my-dog"
DELAY = 40  # milliseconds between keys
AFTER = 2500  # milliseconds after the last key in which the panel asks, is answered and shows it
WITHOUT, OFF, ON = "without AlignIT", "AlignIT, off", "AlignIT, the panel on"

WATCH = """() => {
    window.latencies = [];
    window.longTasks = [];
    const box = gradioApp().querySelector("#txt2img_prompt textarea");
    let pressed = 0;
    box.addEventListener("keydown", event => pressed = event.timeStamp, true);
    box.addEventListener("input", () => {
        const from = pressed;
        requestAnimationFrame(() => {
            const channel = new MessageChannel();
            channel.port1.onmessage = () => latencies.push(performance.now() - from);
            channel.port2.postMessage(0);
        });
    });
    new PerformanceObserver(list => longTasks.push(...list.getEntries().map(task => task.duration)))
        .observe({type: "longtask"});
}"""
CONTROLS = ("keys", "layers down mid", "falling")  # of the three kinds that need hooks in the UNet


def open_page(page: Page, url: str, panel_on: bool) -> CDPSession:
    """Open a WebUI's page, ready to type in, and return what reads its counters."""
    page.goto(url)
    tab = Tab(page)
    page.wait_for_function("typeof opts != 'undefined' && 'samples_save' in opts")
    tab.prompt.wait_for()
    page.wait_for_timeout(3000)
    if panel_on:
        tab.open_panel()
    page.evaluate(WATCH)
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    return session


def counters(session: CDPSession) -> dict[str, float]:
    """Return the seconds that the page's main thread has worked so far."""
    metrics = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    return {name: metrics[name] for name in ("TaskDuration", "ScriptDuration")}


def type_once(page: Page, session: CDPSession) -> dict[str, float]:
    """Type the text into the empty box; return what that took."""
    page.bring_to_front()
    tab = Tab(page)
    tab.prompt.fill("")
    page.wait_for_timeout(AFTER)
    page.evaluate("latencies.length = longTasks.length = 0")
    before = counters(session)
    tab.prompt.press_sequentially(TEXT, delay=DELAY)
    page.wait_for_timeout(AFTER)
    after = counters(session)
    latencies, tasks = page.evaluate("[latencies, longTasks]")
    return {
        "latency_ms": float(np.median(latencies)),
        "slowest_ms": float(np.percentile(latencies, 95)),
        "main_thread_ms": 1000 * (after["TaskDuration"] - before["TaskDuration"]),
        "script_ms": 1000 * (after["ScriptDuration"] - before["ScriptDuration"]),
        "long_tasks": float(len(tasks)),
        "long_tasks_ms": float(sum(tasks)),
    }


def measure(webui: WebUI, plain: WebUI, browser_path: str, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Type in the three pages in the order a b c c b a a b c ..."""
    pages: dict[str, tuple[Page, CDPSession]] = {}
    with chromium(browser_path) as browser:
        for name, url in ((WITHOUT, plain.url), (OFF, webui.url), (ON, webui.url)):
            page = browser.new_page(viewport={"width": 1280, "height": 1000})
            pages[name] = page, open_page(page, url, name == ON)
            type_once(*pages[name])  # warm
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in pages}
        for number in range(rounds):
            for name in list(pages)[:: 1 if number % 2 == 0 else -1]:
                taken[name].append(type_once(*pages[name]))
        names = Tab(pages[ON][0]).found.locator(".alignit-name").all_text_contents()
        if names != ["my-cat", "my-toy", "my-dog"]:
            raise SystemExit(f"The panel showed {names}, so this measured something else.")
    return taken


def generation(webui: WebUI, plain: WebUI, pairs: int) -> dict[str, list[list[float]]]:
    """Make the same pictures in both WebUIs, in the order a b b a; return CPU seconds, [pairs, 2] for each kind.

    A concept that is aligned, with and without controls, is compared with its class word in the WebUI without AlignIT.
    """
    size = {"width": 128, "height": 128}
    words = picture("a cat playing with a ball #", **size)
    aligned = picture("a my-cat playing with a ball #", "my-cat=cat", **size)
    taken: dict[str, list[list[float]]] = {}
    controlled = {
        f"a concept aligned, {controls}": picture(
            "a my-cat playing with a ball #", "my-cat=cat", 1.0, 0.0, 1.0, controls, **size
        )
        for controls in CONTROLS
    }
    for kind, ours in {"AlignIT off": words, "a concept aligned": aligned, **controlled}.items():
        arms = (plain, words), (webui, ours)
        for server, arm in arms:
            generate(server, arm)  # warm
        taken[kind] = []
        for pair in range(pairs):
            seconds = [0.0, 0.0]
            for which in (0, 1) if pair % 2 == 0 else (1, 0):
                seconds[which] = generate(*arms[which])[1]
            taken[kind].append(seconds)
    return taken


def report(result: Payload) -> str:
    """Write everything as Markdown."""
    taken: dict[str, list[dict[str, float]]] = result["taken"]

    def column(name: str, what: str) -> Any:
        return np.array([one[what] for one in taken[name]])

    rows = []
    for what, label in (
        ("latency_ms", "from a key to the frame with it, ms (median)"),
        ("slowest_ms", "the same, 95th percentile"),
        ("main_thread_ms", "work of the page's main thread, ms"),
        ("script_ms", "of which scripts, ms"),
    ):
        row = [label, f"{np.median(column(WITHOUT, what)):.1f}"]
        for name in (OFF, ON):
            ratio = median_interval(column(name, what) / column(WITHOUT, what))
            row.append("{:.1f}; ratio {:.3f} ({:.3f} to {:.3f})".format(np.median(column(name, what)), *ratio))
        rows.append(row)
    for what, label in (("long_tasks", "tasks of more than 50 ms"), ("long_tasks_ms", "their length together, ms")):
        rows.append([label, *(f"{np.mean(column(name, what)):.1f}" for name in (WITHOUT, OFF, ON))])
    made = []
    for label, taken_pairs in result["generation"].items():
        pairs = np.array(taken_pairs)
        ratio = median_interval(pairs[:, 1] / pairs[:, 0])
        made.append(
            [label, *(f"{np.median(pairs[:, i]):.3f}" for i in (0, 1)), "{:.4f} ({:.4f} to {:.4f})".format(*ratio)]
        )
    return "\n".join(
        [
            "# What the panel costs while a prompt is typed: results",
            "",
            "Written by `benchmarks/panel.py`; [README.md](README.md) says how it measures and how to read this.",
            "",
            table(["", ""], [[key, value] for key, value in result["facts"].items()]),
            "",
            f"{len(TEXT)} keys, {DELAY} ms apart, and {AFTER} ms after the last one, {len(taken[ON])} times in each "
            "page. Ratios are to the page without AlignIT in the same round: medians with 95 % bootstrap intervals. "
            "Tasks are means for a text.",
            "",
            table(["", WITHOUT, OFF, ON], rows),
            "",
            "## Pictures, in the same run",
            "",
            f"Pictures of 128x128 and 20 steps, {len(taken_pairs)} pairs, each with a new prompt; seconds of the "
            "server's CPU time. An aligned concept is compared with its class word in the WebUI without AlignIT.",
            "",
            table(["", "without AlignIT", "with it", "ratio"], made),
            "",
        ]
    )


def main() -> None:
    """Measure three pages in one browser, in one run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="how often the text is typed in each page (8)")
    parser.add_argument("--webui", type=Path, default=WEBUI.directory, help="the WebUI's folder ($WEBUI_DIR)")
    parser.add_argument("--out", type=Path, default=HERE / "panel.json", help="raw numbers; panel.md goes beside it")
    parser.add_argument("--remark", default="", help="what else a reader has to know of the machine")
    arguments = parser.parse_args()
    browser_path = find_browser()
    if browser_path is None:
        raise SystemExit(NO_BROWSER)
    with (
        WebUI(arguments.webui, page=True, probe=False) as webui,
        WebUI(arguments.webui, page=True, probe=False, alignit=None) as plain,
    ):
        machine = facts(webui, arguments.rounds)
        machine["rounds"] = machine.pop("pairs")
        taken = measure(webui, plain, browser_path, arguments.rounds)
        made = generation(webui, plain, 3 * arguments.rounds)
        machine["load at the end"] = f"{os.getloadavg()[0]:.2f}"
        if arguments.remark:
            machine["remark"] = arguments.remark
    result: Payload = {"facts": machine, "taken": taken, "generation": made}
    arguments.out.write_text(json.dumps(result) + "\n")
    text = report(result)
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
