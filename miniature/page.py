"""A page to try prompts on the miniature: class word, concept alone and AlignIT, and where the model looked.

    python -m miniature.page [--port 7862]

It needs gradio: pip install -e '.[page]'.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from alignit.concepts.concept import ConceptFileError
from alignit.diffusers import AlignIT, AlignITError, AlignITWarning
from miniature.concepts import CONCEPTS
from miniature.demo import PROMPTS, DemoError, Settings, Subject, check_words, miniature_subjects, with_concept
from miniature.model import LATENT
from miniature.pipeline import make_pipeline
from miniature.sampling import GUIDANCE, SAMPLING_STEPS
from miniature.weights import FOLDER, WeightsError, load_miniature
from miniature.words import WORDS

Shown = list[tuple[Image.Image, str]]  # pictures with what stands under them

_SIDE = 288  # of a picture in the page


class Studio:
    """The miniature and what each method has learned of its concepts."""

    def __init__(self, weights: Path = FOLDER) -> None:
        """Load everything.

        Raises:
            WeightsError, ConceptFileError: A file is missing or damaged.
        """
        self.pipe = make_pipeline(load_miniature(weights))
        self.subjects: dict[str, Subject] = {}
        for spec in CONCEPTS:
            for subject in miniature_subjects(spec.name):
                self.subjects[f"{spec.name}, {subject.concept.family.value}"] = subject

    def pictures(self, name: str, prompt: str, seed: float | None, controls: str) -> tuple[Shown, Shown]:
        """Make the three pictures of a prompt, and the maps of the words in the last.

        Args:
            name: One of `subjects`.
            prompt: With {} where the concept stands.
            seed: A whole number.
            controls: As in `alignit.algorithm.controls`, for AlignIT's picture.

        Raises:
            DemoError, AlignITError, ConceptFileError: What cannot be made, and why.
        """
        if "{}" not in prompt:
            raise DemoError("The prompt has no {} where the concept shall stand")
        if seed is None:
            raise DemoError("There is no seed: write a whole number")
        check_words([prompt])
        subject, settings = self.subjects[name], Settings(8 * LATENT, SAMPLING_STEPS, GUIDANCE, int(seed))
        aligned, marked = AlignIT(self.pipe, subject.concept), with_concept(prompt, subject.mark)
        with aligned.attention_maps() as maps:
            ours = aligned(marked, concept_controls=controls, **settings.arguments()).images[0]
        alone = aligned(marked, align=False, **settings.arguments()).images[0]
        word = self.pipe(with_concept(prompt, subject.class_word), **settings.arguments()).images[0]
        pictures = [(word, "class word"), (alone, "concept alone"), (ours, "AlignIT")]
        overlays = [(maps[0].heat_map(text).overlay(ours), text) for text in dict.fromkeys(maps[0].words)]
        return _enlarged(pictures), _enlarged(overlays)


def _enlarged(shown: Shown) -> Shown:
    return [(picture.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC), text) for picture, text in shown]


def make_page(studio: Studio) -> Any:
    """Return the page, not started."""

    def answer(name: str, prompt: str, seed: float | None, controls: str) -> tuple[Shown, Shown]:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", AlignITWarning)
            try:
                made = studio.pictures(name, prompt, seed, controls)
            except (DemoError, AlignITError, ConceptFileError) as error:
                raise gr.Error(str(error)) from None
        for text in dict.fromkeys(str(warning.message) for warning in said if warning.category is AlignITWarning):
            gr.Warning(text)
        return made

    names = list(studio.subjects)
    with gr.Blocks(title="AlignIT on the miniature", analytics_enabled=False) as page:
        gr.Markdown(f"# AlignIT on the miniature\nIt knows these words: {', '.join(WORDS)}.")
        with gr.Row():
            name = gr.Dropdown(names, value=names[0], label="Concept")
            seed = gr.Number(1, label="Seed", precision=0)
            controls = gr.Textbox(label="Controls of AlignIT", placeholder="0.5; keys; layers down mid")
        prompt = gr.Textbox(PROMPTS[0], label="Prompt, with {} where the concept stands")
        button = gr.Button("Generate", variant="primary")
        shown = gr.Gallery(label="Pictures", columns=3, object_fit="contain")
        maps = gr.Gallery(label="Where the model looked in AlignIT's picture", columns=6, object_fit="contain")
        gr.on([button.click, prompt.submit], answer, [name, prompt, seed, controls], [shown, maps], api_name="pictures")
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=7862)
    parser.add_argument("--weights", type=Path, default=FOLDER, help="folder of the miniature's weights")
    options = parser.parse_args(arguments)
    try:
        studio = Studio(options.weights)
    except (WeightsError, ConceptFileError) as error:
        print(error, file=sys.stderr)
        return 1
    if not studio.subjects:
        print("There are no concepts: python -m miniature.concepts makes them", file=sys.stderr)
        return 1
    try:
        make_page(studio).launch(server_port=options.port, quiet=True)
    except OSError as error:
        print(f"{error}. Choose another with --port.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
