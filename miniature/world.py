"""The miniature world: scenes with known attributes, and the painter that draws them.

A scene is one object with a colour, a pattern and, if it has a pattern, a second colour; a background; and perhaps a
companion beside the object and an accessory on it. Everything that a picture shows is in its scene, so a picture can
be scored exactly.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from PIL import Image, ImageDraw

SIZE = 96  # pixels, of a side
_SCALE = 3  # painted so much larger, then reduced: smooth edges
CELL = 16  # pixels that are one where the UNet attends to the text
OBJECT = 3 * CELL  # pixels of an object's side

CLASSES = ("cat", "fish", "house", "car", "cup", "robot")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
PATTERNS = ("plain", "striped", "spotted", "checked")
SECOND_COLOURS = ("none", "white", "black", "yellow", "blue")
BACKGROUNDS = ("beach", "garden", "snow", "night", "city")
COMPANIONS = ("none", "ball", "tree", "box")
ACCESSORIES = ("none", "hat", "crown")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "class": CLASSES,
    "colour": COLOURS,
    "pattern": PATTERNS,
    "second": SECOND_COLOURS,
    "background": BACKGROUNDS,
    "companion": COMPANIONS,
    "accessory": ACCESSORIES,
}

_RGB = {
    "red": (214, 32, 32),
    "orange": (250, 138, 18),
    "yellow": (248, 226, 36),
    "green": (32, 148, 48),
    "blue": (36, 72, 214),
    "purple": (138, 38, 168),
    "white": (250, 250, 250),
    "black": (18, 18, 18),
}
_OUTLINE = (96, 96, 104)  # between black and white: an object is seen in the snow and at night

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Look:
    """What makes an object this object: its class, colour, pattern and second colour ("none" if it is plain)."""

    kind: str
    colour: str
    pattern: str
    second: str

    def values(self) -> dict[str, str]:
        """Return the look's attributes under the names of `ATTRIBUTES`."""
        return {"class": self.kind, "colour": self.colour, "pattern": self.pattern, "second": self.second}

    def shown_in(self, seen: Mapping[str, str]) -> bool:
        """Say whether a picture, by its attributes, shows all of the look."""
        return all(seen[name] == value for name, value in self.values().items())


@dataclass(frozen=True)
class Scene:
    """Everything that a picture shows, in the words of `ATTRIBUTES`."""

    look: Look
    background: str
    companion: str
    accessory: str

    def values(self) -> dict[str, str]:
        """Return the scene's attributes under the names of `ATTRIBUTES`."""
        return self.look.values() | {f.name: getattr(self, f.name) for f in fields(self) if f.name != "look"}

    def labels(self) -> list[int]:
        """Return the scene's attributes as numbers, in the order of `ATTRIBUTES`."""
        values = self.values()
        return [choices.index(values[name]) for name, choices in ATTRIBUTES.items()]


# Two looks of each class that no training picture and no training caption shows: what concepts are made of.
HELD_OUT = (
    Look("cat", "green", "striped", "white"),
    Look("cat", "purple", "checked", "yellow"),
    Look("fish", "red", "spotted", "white"),
    Look("fish", "black", "striped", "yellow"),
    Look("house", "blue", "checked", "white"),
    Look("house", "orange", "spotted", "black"),
    Look("car", "yellow", "striped", "black"),
    Look("car", "white", "spotted", "blue"),
    Look("cup", "purple", "spotted", "white"),
    Look("cup", "red", "checked", "black"),
    Look("robot", "orange", "striped", "blue"),
    Look("robot", "green", "checked", "yellow"),
)


def random_look(rng: random.Random) -> Look:
    """Return a look that is not held out."""
    while True:
        pattern = rng.choice(PATTERNS)
        colour = rng.choice(COLOURS)
        second = "none" if pattern == "plain" else rng.choice([c for c in SECOND_COLOURS[1:] if c != colour])
        look = Look(rng.choice(CLASSES), colour, pattern, second)
        if look not in HELD_OUT:
            return look


def random_scene(rng: random.Random, look: Look | None = None) -> Scene:
    """Return a scene with this look, or with one that is not held out."""
    return Scene(
        look or random_look(rng),
        rng.choice(BACKGROUNDS),
        rng.choice((*COMPANIONS, *COMPANIONS[1:])),
        rng.choice((*ACCESSORIES, ACCESSORIES[0])),
    )


def paint(scene: Scene, rng: random.Random) -> Image.Image:
    """Paint a scene: RGB, SIZE by SIZE. What the scene leaves open (places, sizes) comes from `rng`."""
    canvas = new_canvas()
    paint_background(canvas, scene.background, rng)
    side = rng.choice((-1, 1))
    # On the grid on which the UNet reads the text, and so is the pattern: between its lines the same pattern would have
    # quite other latents, and what its word means could not be told while there is much noise.
    half = OBJECT / 2
    centre = (1 if side > 0 else 2) * CELL + half
    bottom = 5 * CELL
    if scene.companion != "none":
        # Painted first, so that the object is in front of it.
        at = centre + side * (half + rng.uniform(9, 13))
        paint_companion(canvas, scene.companion, min(max(at, 12), SIZE - 12), bottom + rng.uniform(0, 3))
    paint_object(canvas, scene.look, centre - half, bottom, scene.accessory)
    return finished(canvas)


def new_canvas() -> Image.Image:
    """Return what a picture is painted on: larger than the picture, so that its edges become smooth."""
    return Image.new("RGB", (SIZE * _SCALE, SIZE * _SCALE))


def finished(canvas: Image.Image) -> Image.Image:
    """Return the picture of a canvas: RGB, SIZE by SIZE."""
    return canvas.resize((SIZE, SIZE), Image.Resampling.BOX)


def paint_background(canvas: Image.Image, background: str, rng: random.Random) -> None:
    """Paint one of `BACKGROUNDS` over all of a canvas."""
    _BACKGROUNDS[background](_Brush(ImageDraw.Draw(canvas)), rng)


def paint_companion(canvas: Image.Image, companion: str, x: float, bottom: float) -> None:
    """Paint one of `COMPANIONS`, its middle at `x` and standing on `bottom`, in pixels of the picture."""
    _COMPANIONS[companion](_Brush(ImageDraw.Draw(canvas)), x, bottom)


def paint_object(canvas: Image.Image, look: Look, left: float, bottom: float, accessory: str = "none") -> None:
    """Paint an object of OBJECT pixels a side, and the one of `ACCESSORIES` that it wears.

    Args:
        canvas: Of `new_canvas`.
        left: Where it begins, in pixels of the picture; on the grid of CELL.
        bottom: Where it stands; on the grid too.
    """
    box = (left, bottom - OBJECT, left + OBJECT, bottom)
    mask = Image.new("L", canvas.size)
    _SHAPES[look.kind](_Brush(ImageDraw.Draw(mask)), box)
    border = Image.new("L", canvas.size)
    for dx, dy in ((-3, 0), (3, 0), (0, -3), (0, 3), (-2, -2), (2, 2), (-2, 2), (2, -2)):
        border.paste(255, (dx, dy), mask)
    canvas.paste(_OUTLINE, (0, 0), border)
    canvas.paste(_cloth(look, box), (0, 0), mask)
    brush = _Brush(ImageDraw.Draw(canvas))
    _DETAILS[look.kind](brush, box)
    if accessory != "none":
        _ACCESSORIES[accessory](brush, *_top(look.kind, box))


class _Brush:
    """Draws in the picture's pixels on the enlarged canvas."""

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self.draw = draw
        self.full: int | Colour = 255 if draw.mode == "L" else (255, 255, 255)

    def rectangle(self, box: Box, fill: Colour | None = None) -> None:
        self.draw.rectangle([v * _SCALE for v in box], fill=fill or self.full)

    def ellipse(self, box: Box, fill: Colour | None = None) -> None:
        self.draw.ellipse([v * _SCALE for v in box], fill=fill or self.full)

    def disc(self, x: float, y: float, radius: float, fill: Colour | None = None) -> None:
        self.ellipse((x - radius, y - radius, x + radius, y + radius), fill)

    def polygon(self, points: list[tuple[float, float]], fill: Colour | None = None) -> None:
        self.draw.polygon([(x * _SCALE, y * _SCALE) for x, y in points], fill=fill or self.full)

    def ring(self, box: Box, width: float, fill: Colour | None = None) -> None:
        self.draw.ellipse([v * _SCALE for v in box], outline=fill or self.full, width=round(width * _SCALE))


# Backgrounds


def _beach(brush: _Brush, rng: random.Random) -> None:
    brush.rectangle((0, 0, SIZE, 40), (140, 208, 246))
    brush.rectangle((0, 40, SIZE, 58), (38, 128, 196))
    brush.rectangle((0, 58, SIZE, SIZE), (236, 212, 146))
    brush.disc(rng.uniform(8, 88), rng.uniform(8, 14), 6, (255, 244, 170))


def _garden(brush: _Brush, rng: random.Random) -> None:
    brush.rectangle((0, 0, SIZE, 36), (188, 228, 250))
    brush.rectangle((0, 36, SIZE, SIZE), (112, 190, 84))
    for _ in range(10):
        x, y = rng.uniform(3, 93), rng.uniform(42, 94)
        brush.disc(x, y, 2.6, rng.choice(((244, 150, 190), (250, 240, 140))))


def _snow(brush: _Brush, rng: random.Random) -> None:
    brush.rectangle((0, 0, SIZE, 52), (170, 186, 206))
    brush.rectangle((0, 52, SIZE, SIZE), (238, 243, 250))
    for _ in range(16):
        brush.disc(rng.uniform(2, 94), rng.uniform(2, 50), 1.8, (255, 255, 255))


def _night(brush: _Brush, rng: random.Random) -> None:
    brush.rectangle((0, 0, SIZE, 64), (20, 24, 66))
    brush.rectangle((0, 64, SIZE, SIZE), (44, 46, 78))
    brush.disc(rng.uniform(10, 86), rng.uniform(8, 14), 6, (246, 242, 208))
    for _ in range(10):
        brush.disc(rng.uniform(2, 94), rng.uniform(2, 60), 1.2, (235, 235, 220))


def _city(brush: _Brush, rng: random.Random) -> None:
    brush.rectangle((0, 0, SIZE, SIZE), (222, 206, 196))
    for i in range(4):
        left, top = 24 * i + rng.uniform(-1, 1), rng.uniform(6, 26)
        brush.rectangle((left + 1, top, left + 21, 70), (150, 132, 128))
        for row in range(3):
            for column in range(2):
                x, y = left + 4 + 9 * column, top + 6 + 12 * row
                brush.rectangle((x, y, x + 4, y + 6), (250, 236, 176))
    brush.rectangle((0, 70, SIZE, SIZE), (112, 112, 118))


# What stands beside and on top


def _ball(brush: _Brush, x: float, bottom: float) -> None:
    brush.disc(x, bottom - 12, 12, _OUTLINE)
    brush.disc(x, bottom - 12, 11, (255, 112, 176))
    brush.rectangle((x - 11, bottom - 14, x + 11, bottom - 10), (255, 255, 255))


def _tree(brush: _Brush, x: float, bottom: float) -> None:
    brush.rectangle((x - 3, bottom - 24, x + 3, bottom), (112, 68, 32))
    brush.polygon([(x - 13, bottom - 16), (x, bottom - 62), (x + 13, bottom - 16)], (14, 84, 52))


def _box(brush: _Brush, x: float, bottom: float) -> None:
    brush.rectangle((x - 12, bottom - 24, x + 12, bottom), _OUTLINE)
    brush.rectangle((x - 11, bottom - 23, x + 11, bottom - 1), (182, 128, 72))
    brush.rectangle((x - 2, bottom - 23, x + 2, bottom - 1), (226, 190, 132))


def _hat(brush: _Brush, x: float, y: float) -> None:
    brush.rectangle((x - 16, y - 3, x + 16, y + 2), (92, 56, 30))
    brush.rectangle((x - 10, y - 17, x + 10, y), (92, 56, 30))
    brush.rectangle((x - 10, y - 7, x + 10, y - 3), (240, 120, 160))


def _crown(brush: _Brush, x: float, y: float) -> None:
    points = [(-14, 2), (-14, -14), (-7, -6), (0, -17), (7, -6), (14, -14), (14, 2)]
    brush.polygon([(x + dx, y + dy) for dx, dy in points], (236, 182, 30))
    for dx in (-8, 0, 8):
        brush.disc(x + dx, y - 2, 2.2, (224, 40, 70))


# The object: a mask for its cloth, then details


def _at(box: Box, x: float, y: float) -> tuple[float, float]:
    """Return a point of the object's box, in tenths of its width and height."""
    left, top, right, bottom = box
    return left + (right - left) * x / 10, top + (bottom - top) * y / 10


def _part(box: Box, x0: float, y0: float, x1: float, y1: float) -> Box:
    return (*_at(box, x0, y0), *_at(box, x1, y1))


def _cat_shape(brush: _Brush, box: Box) -> None:
    brush.ellipse(_part(box, 0.6, 4.2, 9.4, 10.6))
    brush.rectangle(_part(box, 1.2, 8, 8.8, 10))
    brush.ellipse(_part(box, 1.6, 0.9, 8.4, 6.2))
    for ear in ((1.7, 0, 1.7, 4, 4.6, 1.6), (8.3, 0, 8.3, 4, 5.4, 1.6)):
        brush.polygon([_at(box, *ear[i : i + 2]) for i in (0, 2, 4)])


def _cat_details(brush: _Brush, box: Box) -> None:
    for x in (3.6, 6.4):
        brush.disc(*_at(box, x, 3.2), 3.4, (245, 250, 190))
        brush.disc(*_at(box, x, 3.2), 1.7, (20, 40, 20))
    brush.polygon([_at(box, 4.5, 4.3), _at(box, 5.5, 4.3), _at(box, 5, 5)], (240, 120, 130))


def _fish_shape(brush: _Brush, box: Box) -> None:
    brush.ellipse(_part(box, 0, 1.6, 7.9, 9.2))
    brush.polygon([_at(box, 6.6, 5.4), _at(box, 10, 2.0), _at(box, 10, 8.8)])
    brush.polygon([_at(box, 2.6, 2.4), _at(box, 5.4, 0.4), _at(box, 6.2, 2.8)])


def _fish_details(brush: _Brush, box: Box) -> None:
    brush.disc(*_at(box, 1.9, 4.4), 4, (255, 255, 255))
    brush.disc(*_at(box, 1.8, 4.4), 2, (10, 10, 10))


def _house_shape(brush: _Brush, box: Box) -> None:
    brush.rectangle(_part(box, 0.8, 4, 9.2, 10))
    brush.polygon([_at(box, 0, 4.2), _at(box, 5, 0), _at(box, 10, 4.2)])


def _house_details(brush: _Brush, box: Box) -> None:
    brush.rectangle(_part(box, 4.1, 6.9, 5.9, 10), (84, 52, 36))
    for x in (1.7, 6.7):
        brush.rectangle(_part(box, x, 5.2, x + 1.6, 6.8), (190, 226, 240))


def _car_shape(brush: _Brush, box: Box) -> None:
    brush.rectangle(_part(box, 0, 4.6, 10, 8.8))
    brush.polygon([_at(box, 1.4, 4.8), _at(box, 2.6, 1.2), _at(box, 7.4, 1.2), _at(box, 8.8, 4.8)])


def _car_details(brush: _Brush, box: Box) -> None:
    for x in (2.4, 7.6):
        brush.disc(*_at(box, x, 8.6), 6.5, (36, 36, 40))
        brush.disc(*_at(box, x, 8.6), 3, (190, 190, 196))
    for x0, x1 in ((2.7, 4.7), (5.3, 7.3)):
        brush.rectangle(_part(box, x0, 2, x1, 4), (190, 226, 240))


def _cup_shape(brush: _Brush, box: Box) -> None:
    brush.ring(_part(box, 5.8, 3, 10.2, 8), 4.5)
    brush.polygon([_at(box, 0.4, 1.6), _at(box, 8.2, 1.6), _at(box, 7.2, 10), _at(box, 1.4, 10)])


def _cup_details(brush: _Brush, box: Box) -> None:
    brush.ellipse(_part(box, 0.4, 1, 8.2, 2.4), (120, 78, 48))


def _robot_shape(brush: _Brush, box: Box) -> None:
    brush.rectangle(_part(box, 2.2, 0.2, 7.8, 3.8))
    brush.rectangle(_part(box, 4.2, 3.6, 5.8, 4.6))
    brush.rectangle(_part(box, 1.6, 4.4, 8.4, 8.6))
    for x in (0, 8.9):
        brush.rectangle(_part(box, x, 4.8, x + 1.1, 8))
    for x in (2.2, 5.6):
        brush.rectangle(_part(box, x, 8.4, x + 2.2, 10))


def _robot_details(brush: _Brush, box: Box) -> None:
    for x in (3.7, 6.3):
        brush.rectangle(_part(box, x - 0.65, 1, x + 0.65, 2.1), (120, 250, 240))
    brush.rectangle(_part(box, 3.4, 2.8, 6.6, 3.2), (60, 60, 66))


def _top(kind: str, box: Box) -> tuple[float, float]:
    """Return where the object's accessory sits."""
    return _at(
        box,
        *{"cat": (5, 1.3), "fish": (4, 1.5), "house": (5, 1.2), "car": (5, 1.4), "cup": (4.3, 1.5)}.get(kind, (5, 0.4)),
    )


def _cloth(look: Look, box: Box) -> Image.Image:
    """Return what the object is made of: its pattern, tied to its box."""
    cloth = Image.new("RGB", (SIZE * _SCALE, SIZE * _SCALE), _RGB[look.colour])
    if look.pattern == "plain":
        return cloth
    brush, second = _Brush(ImageDraw.Draw(cloth)), _RGB[look.second]
    left, top, right, _ = box
    # Each a cell: coarse enough to be seen where the text is read. The second colour always covers less than the first,
    # so that which is which can be seen.
    if look.pattern == "striped":
        brush.rectangle((left, top + CELL, right, top + 2 * CELL), second)
    elif look.pattern == "checked":
        for row in range(3):
            for column in range(3):
                if (row + column) % 2:
                    x, y = left + CELL * column, top + CELL * row
                    brush.rectangle((x, y, x + CELL, y + CELL), second)
    else:
        for row in range(3):
            for column in range(3):
                brush.disc(left + CELL * (column + 0.5), top + CELL * (row + 0.5), 0.34 * CELL, second)
    return cloth


_BACKGROUNDS: dict[str, Callable[[_Brush, random.Random], None]] = {
    "beach": _beach,
    "garden": _garden,
    "snow": _snow,
    "night": _night,
    "city": _city,
}
_COMPANIONS: dict[str, Callable[[_Brush, float, float], None]] = {"ball": _ball, "tree": _tree, "box": _box}
_ACCESSORIES: dict[str, Callable[[_Brush, float, float], None]] = {"hat": _hat, "crown": _crown}
_SHAPES: dict[str, Callable[[_Brush, Box], None]] = {
    "cat": _cat_shape,
    "fish": _fish_shape,
    "house": _house_shape,
    "car": _car_shape,
    "cup": _cup_shape,
    "robot": _robot_shape,
}
_DETAILS: dict[str, Callable[[_Brush, Box], None]] = {
    "cat": _cat_details,
    "fish": _fish_details,
    "house": _house_details,
    "car": _car_details,
    "cup": _cup_details,
    "robot": _robot_details,
}
