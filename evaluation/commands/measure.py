"""The paper's protocol on a real model: text and image alignment with and without AlignIT.

With a running WebUI (started with --api, AlignIT installed, the embedding in its folder):

    python -m evaluation --webui http://127.0.0.1:7860 --mark "<my-cat=cat>" --class-word cat \\
        --references my-cat-pictures --prompts prompts/pet.txt --output evaluation-my-cat

With diffusers:

    python -m evaluation --checkpoint sd-v1-5.safetensors --file my-cat.pt --mark "<my-cat=cat>" --class-word cat ...

For each prompt and seed it makes the class word, the concept alone and AlignIT, with the same noise, and scores them
with CLIP; image alignment is of the object alone, which CLIPSeg finds (--mask none: of the whole picture). It leaves
the pictures, table.md and index.html in the output folder. Stopped, it goes on with the same command.

With --quick it makes few, and prints a summary to post.

python -m evaluation survey asks people about the pictures, and python -m evaluation tally counts their answers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from alignit.concepts.concept import ConceptFileError
from alignit.concepts.formats import load_concept
from alignit.diffusers import AlignIT, AlignITError
from evaluation.clip import CLIP, SEGMENTER, ClipScorer, Scorer, Segmenter
from evaluation.errors import EvaluationError
from evaluation.makers import DiffusersMaker, Maker, Settings, WebUIMaker
from evaluation.pictures import read_pictures
from evaluation.pipelines import load_pipeline
from evaluation.plan import QUICK_PROMPTS, QUICK_SEEDS, Subject, read_prompts, shots
from evaluation.record import Record
from evaluation.run import run
from evaluation.summary import make_summary

_SEEDS = 50


def command(arguments: list[str]) -> int:
    """Run the command; return its exit status.

    Raises:
        EvaluationError: It cannot go on.
    """
    options = _parser().parse_args(arguments)
    if options.file is None and options.checkpoint is not None:
        raise EvaluationError("--checkpoint needs --file, the concept's file")
    if options.quick and options.seeds is not None:
        raise EvaluationError(f"--quick makes {QUICK_SEEDS} seeds of each prompt: leave out one of --quick and --seeds")
    seeds = QUICK_SEEDS if options.quick else _SEEDS if options.seeds is None else options.seeds
    if seeds < 1:
        raise EvaluationError("--seeds must be at least 1")
    subject = Subject(options.mark, options.class_word.strip(), options.extra)
    if not subject.class_word:
        raise EvaluationError("--class-word is empty: say what the concept is, such as cat")
    prompts = _prompts(options, subject)
    settings = Settings(options.size, options.steps, options.guidance)
    record = Record(options.output, _kept(options, prompts))
    maker = _maker(options, settings)
    kinds = maker.kinds(subject) if options.quick else ""
    scorer = _scorer(options, subject)
    page = run(maker, scorer, subject, list(shots(prompts, seeds)), record)
    if options.quick:
        facts = {**maker.facts(), **scorer.facts()}
        summary = make_summary(list(record.entries.values()), facts, subject, kinds, settings, options.device)
        _write(options.output / "summary.md", summary)
        print(summary)
        print("Please post these lines, all the more where AlignIT is worse: see docs/evaluation.md for where.")
    else:
        print((options.output / "table.md").read_text(encoding="utf-8"))
    print(page)
    return 0


def _prompts(options: argparse.Namespace, subject: Subject) -> list[str]:
    if options.prompts is not None:
        prompts = read_prompts(options.prompts, subject.class_word)
        return prompts[: len(QUICK_PROMPTS)] if options.quick else prompts
    if not options.quick:
        raise EvaluationError("There are no prompts: give a list with --prompts, or --quick for some of its own")
    return list(QUICK_PROMPTS)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise EvaluationError(f"{path} can't be written ({error})") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    host = parser.add_mutually_exclusive_group(required=True)
    host.add_argument("--webui", help="address of a running WebUI")
    host.add_argument("--checkpoint", type=Path, help="a .safetensors file, or a folder for diffusers")
    parser.add_argument("--file", type=Path, help="the concept's file, with --checkpoint")
    parser.add_argument("--mark", required=True, help="what stands for the concept in a prompt: '<my-cat=cat>'")
    parser.add_argument("--class-word", required=True, help="what it is, in ordinary words")
    parser.add_argument("--extra", default="", help="for the end of each prompt with it: '<delta:my-run:1>'")
    parser.add_argument("--prompts", type=Path, help="a list, with {} for the concept on each line")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"minutes on a GPU, to post: {len(QUICK_PROMPTS)} prompts (its own, or the first of --prompts) x "
        f"{QUICK_SEEDS} seeds",
    )
    parser.add_argument("--references", type=Path, required=True, help="folder with pictures of the concept")
    parser.add_argument("--output", type=Path, default=Path("evaluation-run"), help="folder for all that is made")
    parser.add_argument("--seeds", type=int, help=f"pictures of each prompt (default {_SEEDS}, the paper's)")
    parser.add_argument("--size", type=int, default=512, help="side of a picture in pixels")
    parser.add_argument("--steps", type=int, default=50, help="sampling steps")
    parser.add_argument("--guidance", type=float, default=7.5, help="guidance scale")
    parser.add_argument("--sampler", default="DDIM", help="the sampler's name in the WebUI")
    parser.add_argument("--password", default="", help="user:password of --api-auth")
    parser.add_argument("--clip", default=CLIP, help="CLIP of transformers: a name or a folder")
    parser.add_argument("--segmenter", default=SEGMENTER, help="CLIPSeg of transformers: a name or a folder")
    parser.add_argument("--mask", choices=["object", "none"], default="object", help="what image alignment looks at")
    parser.add_argument("--device", default="cpu", help="of CLIP and the segmenter, and of diffusers: cpu or cuda")
    return parser


def _kept(options: argparse.Namespace, prompts: list[str]) -> dict[str, object]:
    """Return what a run has to have in common with what is in its folder."""
    names = ("mark", "class_word", "extra", "size", "steps", "guidance", "sampler", "clip", "mask")
    host = {"checkpoint": str(options.checkpoint), "file": str(options.file)} if options.checkpoint else {}
    return {name: getattr(options, name) for name in names} | host | {"prompts": prompts}


def _maker(options: argparse.Namespace, settings: Settings) -> Maker:
    if options.webui:
        return WebUIMaker(options.webui, settings, options.sampler, options.password)
    pipe = load_pipeline(options.checkpoint, options.device)
    try:
        concept = load_concept(options.file)
        aligned = AlignIT(pipe, concept)
    except (ConceptFileError, AlignITError) as error:
        raise EvaluationError(str(error).rstrip(".")) from None
    vectors = sum(token.length for token in concept.tokens)
    return DiffusersMaker(pipe, aligned, settings, options.checkpoint.name, concept.family.value, vectors)


def _scorer(options: argparse.Namespace, subject: Subject) -> Scorer:
    masker = Segmenter(options.segmenter, options.device) if options.mask == "object" else None
    references = read_pictures(options.references)
    return ClipScorer(references, subject.class_word, masker, options.clip, options.device)
