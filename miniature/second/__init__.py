"""The miniature's second edition: one or two objects, a text encoder pretrained as CLIP is and then frozen."""

from pathlib import Path

FOLDER = Path(__file__).with_name("weights")
TOWERS = FOLDER / "towers.safetensors"  # the pretrained encoders
