"""Make a picture with AlignIT over the WebUI's API, and save it; needs nothing but Python.

    python client.py "a <my-cat=cat> playing with a ball in the garden" --url http://127.0.0.1:7860 --out picture.png

Start the WebUI with ``--api``.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


def post(url: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Post JSON to the WebUI and return its answer; an error's text is the WebUI's, or AlignIT's, own."""
    request = urllib.request.Request(
        url, data=json.dumps(payload).encode(), headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request) as response:
            answer: dict[str, Any] = json.load(response)
            return answer
    except urllib.error.HTTPError as error:
        answer = json.load(error)
        raise SystemExit(f"{error.code}: {answer.get('detail') or answer.get('errors')}") from None
    except urllib.error.URLError as error:
        raise SystemExit(f"No WebUI at {url}: {error.reason}") from None


def main() -> None:
    """Make one picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt")
    parser.add_argument("--url", default="http://127.0.0.1:7860")
    parser.add_argument("--class-words", default="", help="such as 'my-cat=cat, my-dog=golden retriever'")
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=-1)
    parser.add_argument("--out", type=Path, default=Path("picture.png"))
    arguments = parser.parse_args()

    answer = post(
        f"{arguments.url}/sdapi/v1/txt2img",
        {
            "prompt": arguments.prompt,
            "width": arguments.size,
            "height": arguments.size,
            "steps": arguments.steps,
            "seed": arguments.seed,
            "alwayson_scripts": {
                "AlignIT": {
                    "args": [{"enabled": True, "class_words": arguments.class_words, "strength": arguments.strength}]
                }
            },
        },
    )
    arguments.out.write_bytes(base64.b64decode(answer["images"][0]))
    made_with = json.loads(answer["info"])["extra_generation_params"]
    print(f"{arguments.out}: {made_with.get('AlignIT class words', 'no concept was injected')}")
    if "AlignIT note" in made_with:
        print(made_with["AlignIT note"], file=sys.stderr)


if __name__ == "__main__":
    main()
