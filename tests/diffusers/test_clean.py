"""Nothing is left behind in the pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from alignit.diffusers import AlignIT, AlignITWarning
from tests.diffusers.conftest import Model
from tests.diffusers.reference import pictures

PROMPT = "a my-toy on <new1> cat and <teddy=dog>"


def state(pipe: Any) -> dict[str, Any]:
    """Weights, hooks, instance attributes and tokenizers of a pipeline."""
    found: dict[str, Any] = {}
    for name, component in pipe.components.items():
        if isinstance(component, torch.nn.Module):
            found |= {
                f"{name}.{key}": (value.data_ptr(), value.clone()) for key, value in component.state_dict().items()
            }
            for path, module in component.named_modules():
                hooks = {key: list(value) for key, value in vars(module).items() if key.endswith("hooks") and value}
                found[f"{name}.{path} hooks"] = hooks
                found[f"{name}.{path} attributes"] = sorted(vars(module))
                found[f"{name}.{path} forward"] = "forward" in vars(module)
        elif hasattr(component, "get_vocab"):
            found[name] = component.get_vocab()
    return found


def assert_same_state(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    for key, value in before.items():
        if isinstance(value, tuple):
            assert value[0] == after[key][0], key
            assert torch.equal(value[1], after[key][1]), key
        else:
            assert value == after[key], key


@pytest.fixture
def aligned(sd1: Model) -> AlignIT:
    return AlignIT(sd1.pipe, sd1.load("my-toy", "run", "teddy"), {"my-toy": "toy"})


@pytest.mark.parametrize("arguments", [{}, {"concept_start": 0.2, "concept_end": 0.8}, {"align": False}])
def test_after_a_picture(sd1: Model, aligned: AlignIT, arguments: dict[str, Any]) -> None:
    before, plain = state(sd1.pipe), pictures(sd1.pipe, "a cat in snow")
    ours = pictures(aligned, PROMPT, **arguments)
    assert_same_state(before, state(sd1.pipe))
    assert np.array_equal(pictures(sd1.pipe, "a cat in snow"), plain)
    assert np.array_equal(pictures(aligned, PROMPT, **arguments), ours)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("arguments", [{}, {"concept_end": 0.5}, {"align": False}])
def test_after_an_error(sd1: Model, aligned: AlignIT, error: type[BaseException], arguments: dict[str, Any]) -> None:
    before = state(sd1.pipe)

    def fail(_pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            raise error("as asked")
        return tensors

    with pytest.raises(error, match="as asked"):
        pictures(aligned, PROMPT, callback_on_step_end=fail, **arguments)
    assert_same_state(before, state(sd1.pipe))


def test_after_an_interrupted_picture(sd1: Model, aligned: AlignIT) -> None:
    before = state(sd1.pipe)

    def stop(pipe: Any, _step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        pipe._interrupt = True
        return tensors

    pictures(aligned, PROMPT, callback_on_step_end=stop)
    assert_same_state(before, state(sd1.pipe))


def test_after_an_error_in_the_text_encoder(sd1: Model, aligned: AlignIT) -> None:
    before = state(sd1.pipe)
    layer = getattr(sd1.pipe.text_encoder, "text_model", sd1.pipe.text_encoder).encoder.layers[-1]

    def fail(*_: Any) -> None:
        raise RuntimeError("as asked")

    handle = layer.mlp.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="as asked"):
        pictures(aligned, PROMPT)
    handle.remove()
    assert_same_state(before, state(sd1.pipe))


def test_after_a_with_block_and_a_constructor(sd1: Model, aligned: AlignIT) -> None:
    before = state(sd1.pipe)
    with pytest.raises(RuntimeError, match="as asked"), aligned.prepared(PROMPT):
        raise RuntimeError("as asked")
    assert_same_state(before, state(sd1.pipe))
    with pytest.warns(AlignITWarning), aligned.prepared("a cat"):
        pass
    AlignIT(sd1.pipe, sd1.load("run"))
    assert_same_state(before, state(sd1.pipe))
