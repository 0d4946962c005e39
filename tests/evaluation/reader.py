"""The miniature's own scorer, for prompts whose places are known."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from evaluation.clip import Scores
from miniature.classifier import Classifier, read_attributes

PLACES = {
    "a photo of a {} in the snow with a ball": {"background": "snow", "companion": "ball"},
    "a picture of a {} at night wearing a hat": {"background": "night", "accessory": "hat"},
}


class ReadByClassifier:
    """The miniature's own scorer: which of the words of a text a picture shows, and whether the object is the one."""

    def __init__(self, classifier: Classifier, look: dict[str, str], class_word: str) -> None:
        self.classifier, self.look = classifier, look
        self.places = {prompt.replace("{}", class_word): place for prompt, place in PLACES.items()}

    def score(self, picture: Image.Image, text: str) -> Scores:
        image = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None]
        (seen,) = read_attributes(self.classifier, image)
        wanted = self.places[text]
        text_score = sum(seen[k] == v for k, v in wanted.items()) / len(wanted)
        return Scores(text_score, float(all(seen[k] == v for k, v in self.look.items())))

    def facts(self) -> dict[str, str]:
        return {"scorer": "the miniature's classifier"}
