"""What a file holds, whatever container it is in: tensors under names, and nothing yet about what they mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alignit.concepts.formats.images import image_format, read_image
from alignit.concepts.formats.safetensors_files import looks_like_safetensors, read_safetensors
from alignit.concepts.formats.source import DOWNLOAD_AGAIN, SAVE_AGAIN, Source, StoredTensor
from alignit.concepts.formats.torch_files import LEGACY_MAGIC, ZIP_MAGIC, read_legacy, read_zip

_START = 512
_MAX_TENSORS = 20_000  # a whole SDXL checkpoint has 2,500
_MAX_DEPTH = 4

_OTHER_KINDS = {
    b"version https://git-lfs": (
        "is a Git LFS pointer, not the file itself",
        "Fetch it with 'git lfs pull', or download it from the site",
    ),
    b"\xff\xd8\xff": (
        "is a JPEG picture, which cannot hold a concept",
        "Choose the concept's file, of which this may be the preview",
    ),
    b"GIF8": ("is a GIF picture", "Choose the concept's file, of which this may be the preview"),
    b"GGUF": ("is a GGUF model", "Choose a concept's file"),
    b"7z\xbc\xaf\x27\x1c": ("is a 7z archive", "Unpack it, and choose the file inside"),
    b"Rar!": ("is a RAR archive", "Unpack it, and choose the file inside"),
    b"\x1f\x8b": ("is a gzip archive", "Unpack it, and choose the file inside"),
}

TensorPath = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Contents:
    """An open concept file's tensors.

    Attributes:
        source: The file.
        tensors: By the names of the dictionaries around them, outermost first; an item of a list is named by its
            number. The empty path is a file that is one tensor and nothing else.
        metadata: Text that .safetensors files carry.
        title: The name that a picture with an embedding gives to it, or None.
    """

    source: Source
    tensors: Mapping[TensorPath, StoredTensor]
    metadata: Mapping[str, str]
    title: str | None = None

    @property
    def stem(self) -> str:
        """The file's name without its extensions."""
        return self.source.path.stem.removesuffix(".delta")

    def select(self, *start: str) -> dict[TensorPath, StoredTensor]:
        """Return the tensors whose path starts so, without that start."""
        size = len(start)
        return {path[size:]: tensor for path, tensor in self.tensors.items() if path[:size] == start}


@contextmanager
def open_contents(path: Path) -> Iterator[Contents]:
    """Open a file and find what is in it, by what it contains and never by its extension.

    Raises:
        ConceptFileError: It cannot be opened or is no file that tensors come in.
    """
    with Source(path) as source:
        yield _contents(source)


def _contents(source: Source) -> Contents:
    if source.size == 0:
        raise source.error("is empty", DOWNLOAD_AGAIN)
    start = bytes(source.read(0, min(_START, source.size)))
    if start.startswith(ZIP_MAGIC):
        return Contents(source, _flatten(source, read_zip(source)), {})
    if start.startswith(LEGACY_MAGIC):
        return Contents(source, _flatten(source, read_legacy(source)), {})
    if looks_like_safetensors(start):
        tensors, metadata = read_safetensors(source)
        return Contents(source, _flatten(source, tensors), metadata)
    if kind := image_format(start):
        tree = read_image(source, kind)
        title = tree.get("name") if isinstance(tree, dict) else None
        return Contents(source, _flatten(source, tree), {}, title if isinstance(title, str) else None)
    for magic, (problem, remedy) in _OTHER_KINDS.items():
        if start.startswith(magic):
            raise source.error(problem, remedy)
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<", b"{")):
        raise source.error("is a web page or an error message instead of the file", DOWNLOAD_AGAIN)
    if start.startswith(b"\x80") or start[257:262] == b"ustar":
        raise source.error("is a pickle, but not a file of torch 0.4 or later", SAVE_AGAIN)
    raise source.error("is no .safetensors, .pt, .bin, .ckpt or picture file, or is damaged", DOWNLOAD_AGAIN)


def _flatten(source: Source, tree: object) -> dict[TensorPath, StoredTensor]:
    found: dict[TensorPath, StoredTensor] = {}
    seen = 0
    waiting: list[tuple[TensorPath, object]] = [((), tree)]
    while waiting:
        path, node = waiting.pop()
        seen += 1
        size = len(node) if isinstance(node, (dict, list, tuple)) else 0
        # Dictionaries that share a part can unfold to any size.
        if seen + len(waiting) + size > _MAX_TENSORS * 2:
            raise source.error("has too many parts for a concept", "Choose a concept's file")
        if isinstance(node, StoredTensor):
            found[path] = node
        elif len(path) < _MAX_DEPTH and isinstance(node, (dict, list, tuple)):
            items = list(node.items() if isinstance(node, dict) else enumerate(node))
            waiting.extend(((*path, str(name)), item) for name, item in reversed(items))
    return found
