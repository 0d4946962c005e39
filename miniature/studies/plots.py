"""The plots of the table: what AlignIT does to text and image alignment, over all and for each concept."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # told apart by the colour-blind too

Numbers = Mapping[str, Sequence[float]]  # by "text", "image": the value, and the ends of its interval


def alignment_plot(pairs: Mapping[str, tuple[Numbers, Numbers]], ceiling: float) -> Image.Image:
    """Draw an arrow for each method, from what it does alone to what it does with AlignIT.

    Args:
        pairs: Of each method, its numbers alone and with AlignIT.
        ceiling: The class word's text alignment.
    """
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.axhline(ceiling, color="grey", linestyle="--", linewidth=1)
    axes.annotate("class word", (0.01, ceiling), xycoords=("axes fraction", "data"), va="bottom", color="grey")
    for (method, (alone, aligned)), colour in zip(pairs.items(), cycle(_COLOURS), strict=False):
        for numbers, marker in ((alone, "o"), (aligned, "D")):
            x, y = numbers["image"], numbers["text"]
            label = method if marker == "o" else None
            # A mean of many equal numbers can lie beside its own interval, by a rounding.
            across, up = ([[max(0.0, n[0] - n[1])], [max(0.0, n[2] - n[0])]] for n in (x, y))
            axes.errorbar(
                x[0], y[0], xerr=across, yerr=up, fmt=marker, color=colour, capsize=2, elinewidth=0.8, label=label
            )
        (x0, y0), (x1, y1) = ((numbers["image"][0], numbers["text"][0]) for numbers in (alone, aligned))
        axes.annotate("", (x1, y1), (x0, y0), arrowprops={"arrowstyle": "->", "color": colour})
    axes.set(xlabel="image alignment", ylabel="text alignment", title="Alone (circles), with AlignIT (diamonds)")
    axes.grid(alpha=0.3)
    axes.legend(loc="best")
    return _image(figure)


def concepts_plot(values: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]]) -> Image.Image:
    """Draw text and image alignment of each trained concept, alone and with AlignIT, joined by a line.

    Args:
        values: By "text" and "image", and in these by method: of each trained concept, alone and with AlignIT.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    both = figure.subplots(1, len(values), sharey=True)
    for axes, (name, of_methods) in zip(both, values.items(), strict=True):
        for i, ((_method, (alone, aligned)), colour) in enumerate(
            zip(of_methods.items(), cycle(_COLOURS), strict=False)
        ):
            for before, after in zip(alone, aligned, strict=True):
                axes.plot([i - 0.2, i + 0.2], [before, after], color=colour, marker="o", markersize=3, linewidth=0.8)
        axes.set_xticks(range(len(of_methods)), [method.replace(" ", "\n") for method in of_methods])
        axes.set(title=f"{name} alignment: alone, with AlignIT", ylim=(-0.02, 1.02))
        axes.grid(axis="y", alpha=0.3)
    return _image(figure)


def _image(figure: Figure) -> Image.Image:
    file = io.BytesIO()
    # Without what differs from run to run, so that the same numbers give the same file.
    options: dict[str, Any] = {"metadata": {"Software": None}}
    figure.savefig(file, dpi=120, **options)
    return Image.open(file)
