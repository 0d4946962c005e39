"""Start a real WebUI, or a fork of it, with the miniature and small random checkpoints, talk to it, stop it.

    with WebUI(find_webui()) as webui:
        picture = webui.txt2img("a photo of my-cat on the moon")[0]
        picture.pixels, picture.infotext

A fork takes the widened miniature (`tests.widened`): it knows checkpoints by their shapes. The host's own directory is
only read. Each server gets a data directory of its own, with config, embeddings,
extensions and models in it. Checkpoints are built once per machine, by make_checkpoints.py, into a folder that all
servers share.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import requests
from PIL import Image

from miniature.concepts import CONCEPTS_FOLDER
from miniature.export import export
from tests.host.kinds import WEBUI, Kind, python_of
from tests.widened import LAYERS, WIDTH, widen
from tests.widened import NAME as WIDE

HERE = Path(__file__).parent
ALIGNIT = HERE.parents[1]
PROBE = HERE / "probe"
MINIATURE = ALIGNIT / "miniature"
GENERATOR = HERE / "make_checkpoints.py"

# Names of cross_attention_optimization that work without a GPU; "None" is the plain CrossAttention.forward.
OPTIMIZATIONS = [
    "None",
    "Doggettx",
    "InvokeAI",
    "V1 - original v1",
    "sub-quadratic",
    "sdp - scaled dot product",
    "sdp-no-mem - scaled dot product without memory efficient attention",
]
OPTIONS = {
    "sd_model_checkpoint": "miniature.safetensors",
    "auto_launch_browser": "Disable",
    "show_progressbar": False,
    "live_previews_enable": False,
    "samples_save": False,
    "grid_save": False,
    "hide_ldm_prints": True,
    "disable_weights_auto_swap": True,
}
OF_WIDE = {
    "sd_model_checkpoint": f"{WIDE}.safetensors",
    # Hosts put back after a picture with other settings what was set before, and no default; Neo's clip skip is 2.
    "CLIP_stop_at_last_layers": 1,
    "emphasis": "Original",
}
HIRES = {  # arguments of a picture with hires fix
    "enable_hr": True,
    "hr_scale": 2,
    "hr_upscaler": "Latent",
    "denoising_strength": 0.7,
    "hr_second_pass_steps": 3,
}
STYLES = 'name,prompt,negative_prompt\ngarden,in the garden,ugly\nconcept,"{prompt} a my-cat in snow",\n'
FLAGS = [
    "--skip-prepare-environment",
    "--skip-torch-cuda-test",
    "--skip-version-check",
    "--api",
]


def find_webui() -> Path | None:
    """The WebUI to test in: $WEBUI_DIR, else ~/stable-diffusion-webui; None where there is none ready to run."""
    return WEBUI.find()


def spare_port() -> int:
    """A free port that the system gives to no client: a WebUI that reloads its page leaves its port for a moment."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", random.randint(20_000, 32_000)))
            return int(probe.getsockname()[1])


def checkpoints_for(directory: Path) -> Path:
    """The folder with checkpoints, embeddings and CLIP's tokenizer, made on first use and when its makers change."""
    return made_by(directory, GENERATOR, exported_miniature(directory))


def exported_miniature(directory: Path) -> Path:
    """The folder with the shipped miniature as a checkpoint, made on first use and when its weights or maker change."""
    # Where a host does not have it, this environment may.
    vocabulary = "venv/lib/python*/site-packages/*clip/bpe_simple_vocab_16e6.txt.gz"
    homes = (directory, WEBUI.directory)
    bpe = next((file for home in homes for file in sorted(home.glob(vocabulary))), None)
    return made_once([*MINIATURE.glob("*.py"), *MINIATURE.glob("weights/*")], lambda folder: export(folder, bpe=bpe))


def widened_miniature(directory: Path) -> Path:
    """The folder with the miniature in Stable Diffusion 1's widths, its concepts and CLIP's settings for that."""
    exported = exported_miniature(directory)

    def make(folder: Path) -> None:
        widen(exported, folder)
        clip = folder / "openai" / "clip-vit-large-patch14"
        shutil.copytree(exported / "clip", clip)
        config = json.loads((clip / "config.json").read_text())
        heads = {"num_attention_heads": 12, "num_hidden_layers": LAYERS}
        config["text_config"] |= {
            "hidden_size": WIDTH,
            "intermediate_size": 4 * WIDTH,
            "projection_dim": WIDTH,
            **heads,
        }
        config["projection_dim"] = WIDTH
        (clip / "config.json").write_text(json.dumps(config))

    return made_once([ALIGNIT / "tests" / "widened.py", *CONCEPTS_FOLDER.rglob("*.*")], make, exported.name)


def made_by(directory: Path, maker: Path, *arguments: Path) -> Path:
    """The folder that a script makes, run by the WebUI's own Python: MAKER WEBUI_DIR ARGUMENTS... FOLDER.

    The arguments are folders of `made_once`.
    """

    def make(folder: Path) -> None:
        command = [str(word) for word in (python_of(directory), maker, directory, *arguments, folder)]
        made = subprocess.run(command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if made.returncode:
            raise RuntimeError(f"{maker.name} failed:\n{made.stdout}")

    return made_once([maker], make, "".join(map(str, arguments)))


def made_once(sources: list[Path], make: Callable[[Path], None], salt: str = "") -> Path:
    """The folder that was made from files with this content before, or is made now."""
    digest = hashlib.sha256(salt.encode())
    for source in sorted(sources):
        digest.update(source.read_bytes())
    root = Path(os.environ.get("ALIGNIT_TEST_CACHE") or Path(tempfile.gettempdir()) / f"alignit-tests-{os.getuid()}")
    folder = root / digest.hexdigest()[:16]
    if not folder.exists():
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as building:
            done = Path(building) / "done"
            done.mkdir()
            make(done)
            with contextlib.suppress(OSError):  # another run was faster
                done.rename(folder)
    return folder


@dataclass
class Picture:
    """One picture that came back, with the text under it."""

    png: bytes = field(repr=False)
    infotext: str

    @property
    def image(self) -> Image.Image:
        return Image.open(io.BytesIO(self.png))

    @property
    def pixels(self) -> np.ndarray:
        return np.asarray(self.image.convert("RGB"))

    @property
    def png_info(self) -> str:
        """The text stored in the file."""
        return str(self.image.info.get("parameters", ""))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Picture) and np.array_equal(self.pixels, other.pixels)

    __hash__ = None  # type: ignore[assignment]

    def difference(self, other: Picture) -> float:
        """Mean absolute difference of the pixels, from 0 to 255."""
        return float(np.abs(self.pixels.astype(float) - other.pixels.astype(float)).mean())


class Pictures(list[Picture]):
    """The pictures of one generation, and what the API said about it."""

    info: dict[str, Any]
    seconds: float


class WebUI:
    """A running server. Use it in a with statement, or call start and stop."""

    def __init__(
        self,
        directory: Path,
        *,
        alignit: Path | None = ALIGNIT,
        probe: bool = True,
        page: bool = False,
        flags: tuple[str, ...] = (),
        config: dict[str, Any] | None = None,
        extensions: tuple[Path, ...] = (),
        kind: Kind = WEBUI,
        wide: bool = False,
    ) -> None:
        """alignit: the checkout to link in, or None. page: serve the web page too, not the API alone.

        kind: The kind of host. wide: with the widened miniature and its concepts, and nothing else.
        """
        self.directory = directory
        self.kind = kind
        page = page or kind.engines
        # The page's scripts and styles are served from the working directory, which is not the WebUI's own here.
        alone = ["--nowebui", "--server-name=127.0.0.1"]
        self.flags = [*FLAGS, *kind.flags, *flags] + ([f"--gradio-allowed-path={directory}"] if page else alone)
        self.cache = widened_miniature(directory) if wide else checkpoints_for(directory)
        self.root = Path(tempfile.mkdtemp(prefix="alignit-webui-"))
        self.data = self.root / "data"
        self.embeddings = self.data / "embeddings"
        self.loras = self.data / "models" / "Lora"
        self.hypernetworks = self.data / "models" / "hypernetworks"
        self.log_file = self.root / "log.txt"
        self.process: subprocess.Popen[bytes] | None = None
        self.startup_seconds = 0.0
        self.url = ""
        self.options_at_start: dict[str, Any] = {}
        for name in ("extensions", "tmp"):  # a fork's page looks for the second one
            (self.data / name).mkdir(parents=True)
        for folder in (self.embeddings, self.loras, self.hypernetworks):
            if (self.cache / folder.name).is_dir():
                shutil.copytree(self.cache / folder.name, folder)
        if wide:
            self._add_widened()
        (self.root / "openai").symlink_to(self.cache / "openai")
        settings = OPTIONS | (OF_WIDE if wide else {})
        (self.data / "config.json").write_text(json.dumps(settings | kind.config | (config or {})))
        (self.data / "styles.csv").write_text(STYLES)
        for source in [*([alignit] if alignit else []), *([PROBE] if probe else []), *extensions]:
            name = "AlignIT" if source == alignit else source.name
            (self.data / "extensions" / name).symlink_to(source.resolve(), target_is_directory=True)

    def _add_widened(self) -> None:
        models = self.data / "models"
        checkpoints = models / "Stable-diffusion"
        checkpoints.mkdir(parents=True)
        for file in self.cache.glob(f"{WIDE}.*"):
            (checkpoints / file.name).symlink_to(file)
        for folder in ("deltas", "catversion"):
            shutil.copytree(self.cache / folder, models / folder)

    def __enter__(self) -> WebUI:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, timeout: float = 400) -> None:
        port = spare_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [python_of(self.directory), self.directory / "launch.py", *self.flags, f"--port={port}"]
        command += [f"--data-dir={self.data}", f"--embeddings-dir={self.embeddings}"]
        if (self.cache / "checkpoints").is_dir():
            command.append(f"--ckpt-dir={self.cache / 'checkpoints'}")
        environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "COMMANDLINE_ARGS")}
        environment |= {
            # With more threads than free cores, OpenMP spins: 14 s for a picture of 0.1 s.
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "GRADIO_ANALYTICS_ENABLED": "False",
            "PYTHONDONTWRITEBYTECODE": "1",
            "ALIGNIT_TEST_OPEN_CLIP": str(self.cache / "open_clip"),
        }
        begin = time.monotonic()
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                cwd=self.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() - begin > timeout:
                log_text = self.log
                self.stop()
                raise RuntimeError(f"the WebUI did not start; its log:\n{log_text[-6000:]}")
            time.sleep(0.1)
        self.startup_seconds = time.monotonic() - begin
        self.options_at_start = self.options()

    def _answers(self) -> bool:
        try:
            # Once the model is there, so that the first test does not wait for it; and once start-up is over, as the
            # API's routes answer some time before everything behind them is ready.
            ready = all(line in self.log for line in self.kind.ready)
            return ready and requests.get(f"{self.url}/sdapi/v1/options", timeout=20).ok
        except requests.RequestException:
            return False

    def stop(self) -> None:
        """End the server and remove its folder."""
        if self.process is not None:
            for sent in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, sent)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(8)
                    break
            self.process = None
        shutil.rmtree(self.root, ignore_errors=True)

    # Talking to it

    @property
    def log(self) -> str:
        """Everything the server has printed so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def version(self) -> str:
        """The host's version, of its CHANGELOG."""
        return re.search(r"^## ([\d.]+)", (self.directory / "CHANGELOG.md").read_text(), re.M)[1]  # type: ignore[index]

    def get(self, path: str, **query: Any) -> Any:
        return self._json(requests.get(self.url + path, params=query, timeout=600))

    def post(self, path: str, payload: dict[str, Any] | None = None) -> Any:
        return self._json(requests.post(self.url + path, json=payload or {}, timeout=600))

    @staticmethod
    def _json(response: requests.Response) -> Any:
        if not response.ok:
            raise requests.HTTPError(f"{response.status_code}: {response.text[:3000]}", response=response)
        return response.json()

    def txt2img(self, prompt: str = "", **payload: Any) -> Pictures:
        """Generate, small and quick where the payload says nothing else.

        alignit: the arguments of AlignIT's script, a list; reference: those of the probe's, an object.
        """
        return self._generate("/sdapi/v1/txt2img", prompt=prompt, **payload)

    def img2img(self, prompt: str = "", *, init: Picture, mask: np.ndarray | None = None, **payload: Any) -> Pictures:
        images: dict[str, Any] = {"init_images": [base64.b64encode(init.png).decode()]}
        if mask is not None:
            png = io.BytesIO()
            Image.fromarray(mask).save(png, "png")
            images["mask"] = base64.b64encode(png.getvalue()).decode()
        return self._generate("/sdapi/v1/img2img", prompt=prompt, **images, **payload)

    def _generate(
        self,
        path: str,
        *,
        alignit: list[Any] | None = None,
        reference: dict[str, Any] | None = None,
        alwayson_scripts: dict[str, Any] | None = None,
        **payload: Any,
    ) -> Pictures:
        scripts = dict(alwayson_scripts or {})
        if alignit is not None:
            scripts["AlignIT"] = {"args": alignit}
        if reference is not None:
            scripts["Reference"] = {"args": [reference]}
        small = {"width": 64, "height": 64, "steps": 4, "seed": 1, "sampler_name": "Euler", "scheduler": "Automatic"}
        begin = time.monotonic()
        answer = self.post(path, {**small, **payload, "alwayson_scripts": scripts})
        info = json.loads(answer["info"])
        texts = info["infotexts"] + [""] * len(answer["images"])
        pictures = Pictures(
            Picture(base64.b64decode(data), text) for data, text in zip(answer["images"], texts, strict=False)
        )
        pictures.info = info
        pictures.seconds = time.monotonic() - begin
        return pictures

    def options(self, **changes: Any) -> dict[str, Any]:
        """Change settings as the Settings page does (callbacks run), and return all of them."""
        if changes:
            self.post("/sdapi/v1/options", changes)
        return self.get("/sdapi/v1/options")  # type: ignore[no-any-return]

    def restore_options(self) -> None:
        """Set everything back to what it was after the start."""
        now = self.options()
        changed = {key: value for key, value in self.options_at_start.items() if now.get(key) != value}
        changed.pop("sd_checkpoint_hash", None)  # follows the checkpoint
        if changed:
            self.post("/sdapi/v1/options", changed)

    def load(self, checkpoint: str) -> None:
        """Make NAME.safetensors the current model."""
        self.options(sd_model_checkpoint=f"{checkpoint}.safetensors")

    def state(self, **query: Any) -> dict[str, Any]:
        """What an extension could have left behind: see probe/scripts/probe.py."""
        return self.get("/probe/state", **query)  # type: ignore[no-any-return]

    def counts(self) -> dict[str, int]:
        """Text-encoder passes and UNet calls of the last generation that had "count" in its reference."""
        return self.get("/probe/counts")  # type: ignore[no-any-return]

    def exceptions(self, clear: bool = False) -> list[dict[str, Any]]:
        """The last exceptions that the host recorded (five at most, newest first)."""
        found = self.get("/probe/exceptions", clear=clear)
        # It also records that a checkout has no remote named origin.
        return [error for error in found if "do_read_info_from_repo" not in str(error["traceback"])]

    def raised(self, text: str) -> bool:
        """Say whether an exception with this text is among those that the host recorded."""
        return any(text in error["exception"] for error in self.exceptions())
