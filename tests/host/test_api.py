"""The API as its documentation describes it."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image

import alignit
from tests.host.webui import ALIGNIT, Picture, WebUI

CLIENT = ALIGNIT / "docs" / "examples" / "client.py"
PROMPT = "a my-cat playing with a ball"


def test_arguments_by_position_and_by_name_and_in_part(host: WebUI) -> None:
    by_position = host.txt2img(PROMPT, alignit=[True, "my-cat=cat", 0.8, 0.0, 0.5])
    by_name = host.txt2img(
        PROMPT, alignit=[{"enabled": True, "class_words": "my-cat=cat", "strength": 0.8, "end": 0.5}]
    )
    assert by_position == by_name
    assert host.txt2img(PROMPT, alignit=[True, "cat"]) == host.txt2img(PROMPT, alignit=[True, "my-cat=cat", 1, 0, 1])
    assert host.txt2img(PROMPT, alignit=[]) == host.txt2img(PROMPT)
    assert host.txt2img(PROMPT, alignit=[None]) == host.txt2img(PROMPT)


def test_script_info_lists_the_documented_arguments_in_both_tabs(host: WebUI) -> None:
    scripts = [script for script in host.get("/sdapi/v1/script-info") if script["name"] == "alignit"]
    assert sorted(script["is_img2img"] for script in scripts) == [False, True]
    for script in scripts:
        assert script["is_alwayson"]
        labels = [argument["label"] for argument in script["args"]]
        assert labels == [
            *("AlignIT", "Class words", "Strength", "Start at", "End at", "More controls"),
            *("Compare", "Attention maps", "Words to map"),
        ]
        assert [argument["value"] for argument in script["args"]] == [False, "", 1.0, 0.0, 1.0, "", False, False, ""]


def test_documented_arguments_are_those_of_the_code() -> None:
    sys.path.insert(0, str(ALIGNIT))
    from alignit.webui.generation.arguments import Arguments  # noqa: PLC0415

    table = [line for line in (ALIGNIT / "docs" / "api.md").read_text(encoding="utf8").splitlines() if "| `" in line]
    documented = [line.split("`")[1] for line in table if line.split("|")[1].strip().isdigit()]
    assert documented == [field.name for field in fields(Arguments)]


def test_everything_to_make_the_picture_again_is_in_its_info(host: WebUI) -> None:
    ours = host.txt2img(PROMPT, alignit=[True, "cat", 0.8, 0.25, 0.75], seed=5)
    assert ours[0].infotext == ours[0].png_info
    assert ours[0].infotext.startswith(PROMPT + "\n")
    for part in (
        "AlignIT class words: my-cat=cat",
        "AlignIT strength: 0.8",
        "AlignIT start: 0.25",
        "AlignIT end: 0.75",
        f"AlignIT version: {alignit.__version__}",
    ):
        assert part in ours[0].infotext
    assert 'TI hashes: "my-cat: ' in ours[0].infotext
    words = host.txt2img("a my-cat and a my-toy", alignit=[True, "my-cat=cat, my-toy=plush toy"])
    assert 'AlignIT class words: "my-cat=cat, my-toy=plush toy"' in words[0].infotext


def test_infotext_makes_the_picture_again(page_host: WebUI) -> None:
    """The host knows how to read the info of scripts where its page is served."""
    ours = page_host.txt2img(PROMPT, alignit=[True, "my-cat=cat", 0.8, 0.0, 0.5], seed=5)
    again = page_host.post("/sdapi/v1/txt2img", {"infotext": ours[0].infotext})
    assert json.loads(again["info"])["infotexts"] == ours.info["infotexts"]
    assert Picture(base64.b64decode(again["images"][0]), "") == ours[0]
    plain = page_host.txt2img(PROMPT, seed=5)
    plain_again = page_host.post("/sdapi/v1/txt2img", {"infotext": plain[0].infotext})
    assert "AlignIT" not in json.loads(plain_again["info"])["infotexts"][0]


def test_the_documented_client(host: WebUI, tmp_path: Path) -> None:
    out = tmp_path / "picture.png"
    command = [sys.executable, str(CLIENT), "a <my-cat=cat> in snow", "--url", host.url, "--out", str(out)]
    command += ["--size", "64", "--steps", "4", "--seed", "1"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "my-cat=cat" in done.stdout
    assert not done.stderr
    with Image.open(out) as image:
        assert image.size == (64, 64)
    wanted = host.post(
        "/sdapi/v1/txt2img",
        {
            "prompt": "a <my-cat=cat> in snow",
            "width": 64,
            "height": 64,
            "steps": 4,
            "seed": 1,
            "alwayson_scripts": {"AlignIT": {"args": [True]}},
        },
    )
    assert Picture(out.read_bytes(), "") == Picture(base64.b64decode(wanted["images"][0]), "")


@pytest.mark.host_errors
def test_the_documented_client_says_what_is_wrong(host: WebUI, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(CLIENT),
        "a my-cat in snow",
        "--out",
        str(tmp_path / "p.png"),
        "--size",
        "64",
        "--steps",
        "1",
    ]
    refused = subprocess.run(
        [*command, "--url", host.url, "--strength", "3"], check=False, capture_output=True, text=True
    )
    assert refused.returncode
    assert "422: AlignIT: strength must be from 0 to 2" in refused.stderr
    noted = subprocess.run([*command, "--url", host.url], check=True, capture_output=True, text=True)
    assert "'my-cat' has no class word" in noted.stderr
    absent = subprocess.run([*command, "--url", "http://127.0.0.1:1"], check=False, capture_output=True, text=True)
    assert "No WebUI at http://127.0.0.1:1" in absent.stderr
