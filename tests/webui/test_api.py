"""AlignIT's own routes, asked over HTTP."""

from __future__ import annotations

import base64
import io

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from tests.webui.conftest import FakeHost

PROMPT = "a my-cat in snow"


@pytest.fixture
def client(host: FakeHost) -> TestClient:
    host.add_embedding("my-cat", vectors=2, class_word="cat")
    app = FastAPI()
    host.call("app_started", None, app)
    return TestClient(app)


def test_concepts(client: TestClient) -> None:
    (concept,) = client.get("/alignit/v1/concepts").json()
    assert concept["name"] == concept["prompt"] == "my-cat"
    assert concept["method"] == "textual inversion"
    assert concept["class_word"] == "cat"
    assert concept["fits"] is True


def test_inspect(client: TestClient) -> None:
    answer = client.post("/alignit/v1/inspect", json={"prompt": PROMPT}).json()
    (concept,) = answer["concepts"]
    assert (concept["name"], concept["class_word"], concept["source"]) == ("my-cat", "cat", "remembered")
    (chunk,) = answer["texts"][PROMPT]
    assert chunk["base"][1:5] == ["a", "cat", "cat", "in"]
    assert chunk["dummies"]["my-cat"][1:6] == ["*", "my-cat", "my-cat", "*", "*"]
    assert chunk["rows"]["my-cat"][0] == 2


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"prompt": PROMPT, "class_words": "=cat"}, "AlignIT"),
        ({"prompt": PROMPT, "controls": "louder"}, "'louder' is no option"),
        ({"prompt": PROMPT, "klass": "x"}, "extra"),
        ({}, "prompt"),
    ],
)
def test_what_cannot_be_looked_at_is_said(client: TestClient, body: dict[str, str], said: str) -> None:
    answer = client.post("/alignit/v1/inspect", json=body)
    assert answer.status_code == 422
    assert said in answer.text


def test_no_model(client: TestClient, host: FakeHost) -> None:
    host.modules.sd_models.model_data.sd_model = None
    answer = client.post("/alignit/v1/inspect", json={"prompt": PROMPT})
    assert answer.status_code == 422
    assert "No model is loaded yet" in answer.json()["detail"]


def test_attention_maps(client: TestClient, host: FakeHost) -> None:
    assert client.get("/alignit/v1/attention-maps").status_code == 404
    host.make(PROMPT, {"enabled": True, "attention_maps": True})
    (picture,) = client.get("/alignit/v1/attention-maps", params={"format": "values"}).json()["pictures"]
    assert picture["prompt"] == PROMPT
    maps = {item["word"]: item for item in picture["maps"]}
    assert set(maps) == {"a", "my-cat", "in", "snow"}
    assert [token["row"] for token in maps["my-cat"]["tokens"]] == [2, 3]
    values = [value for row in maps["my-cat"]["values"] for value in row]
    assert len(values) == picture["height"] * picture["width"] == 64
    assert 0 < max(values) == pytest.approx(maps["my-cat"]["peak"])
    (drawn,) = client.get("/alignit/v1/attention-maps", params={"word": "my-cat"}).json()["pictures"][0]["maps"]
    assert Image.open(io.BytesIO(base64.b64decode(drawn["png"]))).size == (8, 8)
    assert client.get("/alignit/v1/attention-maps", params={"word": "zebra"}).status_code == 404
    assert client.get("/alignit/v1/attention-maps", params={"wrod": "cat"}).status_code == 422
