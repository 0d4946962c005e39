"""AlignIT on a diffusers Stable Diffusion pipeline.

from alignit.diffusers import AlignIT, load_concept

aligned = AlignIT(pipe, load_concept("my-cat.safetensors"))
image = aligned("a photo of <my-cat=cat> on the moon").images[0]
"""

from __future__ import annotations

from alignit.concepts.concept import Concept, ConceptFileError
from alignit.concepts.formats import load_concept
from alignit.diffusers.aligned import AlignIT
from alignit.diffusers.errors import AlignITError, AlignITWarning

__all__ = ["AlignIT", "AlignITError", "AlignITWarning", "Concept", "ConceptFileError", "load_concept"]
