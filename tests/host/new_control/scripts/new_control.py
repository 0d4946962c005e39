"""A test-only extension of the WebUI that declares one more control of AlignIT and one more argument, and nothing else.

It is loaded before AlignIT, so that AlignIT's modules meet the longer declarations as if they stood there.
"""

# No annotations as text: the WebUI keeps no module of a script, in which a dataclass would look them up.
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

# The WebUI puts an extension's folder on the path for the time of its own scripts.
ALIGNIT = Path(__file__).resolve().parents[4]
sys.path.insert(0, str(ALIGNIT))

from alignit.algorithm import controls  # noqa: E402
from alignit.algorithm.options import Documented, Option  # noqa: E402


@dataclass(frozen=True)
class MoreControls(controls.Controls):
    calm: float = field(
        default=0.0,
        metadata=Option(
            help="calm 0.5",
            pattern=re.compile(r"calm\s+(0\.\d+)"),
            read=lambda match, _text: {"calm": float(match[1])},
            documented=(Documented("`calm 0.5`", "", "for this test"),),
            axis="Calm",
        ).metadata,
    )


controls.Controls = MoreControls

from alignit.webui.generation import arguments  # noqa: E402
from alignit.webui.generation.declarations import Axis, Declaration, Paste  # noqa: E402


@dataclass(frozen=True)
class MoreArguments(arguments.Arguments):
    grain: float = field(
        default=0.5,
        metadata=Declaration(
            label="Grain",
            description="For this test.",
            hint="How grainy it is.",
            limits=(0, 3),
            step=0.5,
            infotext="AlignIT grain",
            paste=Paste.DEFAULT,
            axis=Axis("Grain"),
        ).metadata,
    )


arguments.Arguments = MoreArguments
sys.path.remove(str(ALIGNIT))
