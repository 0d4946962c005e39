from __future__ import annotations

from gradio import Component


class InputAccordion(Component):
    """A checkbox with what belongs to it inside."""
