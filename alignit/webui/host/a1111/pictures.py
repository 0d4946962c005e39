"""Drawing and saving."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from alignit.webui.host.ports import Options


class A1111Pictures:
    """The host's pictures; a `alignit.webui.host.ports.Pictures`."""

    def __init__(self, options: Options) -> None:
        """Take the host's settings."""
        self._options = options

    def font(self, size: int) -> Any:
        """See `alignit.webui.host.ports.Pictures`."""
        from modules import images

        return images.get_font(size)

    def grid(
        self,
        rows: Sequence[Sequence[Image.Image]],
        above: Sequence[Sequence[str]],
        beside: Sequence[Sequence[str]],
    ) -> Image.Image:
        """See `alignit.webui.host.ports.Pictures`."""
        from modules import images

        pictures = [picture for row in rows for picture in row]
        grid = images.image_grid(pictures, rows=len(rows))
        width, height = (max(sizes) for sizes in zip(*(picture.size for picture in pictures), strict=True))
        columns, lines = ([list(map(images.GridAnnotation, texts)) for texts in side] for side in (above, beside))
        labelled: Image.Image = images.draw_grid_annotations(grid, width, height, columns, lines)
        return labelled

    def save_grid(self, p: Any, grid: Image.Image, seed: int, prompt: str, info: str) -> None:
        """See `alignit.webui.host.ports.Pictures`."""
        from modules import images

        images.save_image(
            grid,
            p.outpath_grids,
            "grid",
            seed,
            prompt,
            self._options.get("grid_format", "png"),
            info=info,
            short_filename=not self._options.get("grid_extended_filename", False),
            p=p,
            grid=True,
        )
