"""Forge and Forge Neo: models are engines, and their parts are behind patchers.

What these hosts kept of the WebUI, its callbacks, settings, networks and pictures, is taken from
`alignit.webui.host.a1111`. Here is what they made anew.
"""

from __future__ import annotations

from alignit.webui.host.a1111.life import A1111LifeCycle
from alignit.webui.host.a1111.networks import A1111Networks
from alignit.webui.host.a1111.pictures import A1111Pictures
from alignit.webui.host.a1111.sampling import A1111Sampling
from alignit.webui.host.forge.embeddings import ForgeEmbeddings
from alignit.webui.host.forge.model import ForgeModel, loaded_engine
from alignit.webui.host.forge.options import ForgeOptions
from alignit.webui.host.forge.prompts import ForgePrompts


def find() -> Forge | None:
    """Return the host where it is one of these: it encodes prompts in the engines of its ``backend``."""
    try:
        import backend.text_processing.classic_engine  # noqa: F401
    except ImportError:
        return None
    return Forge()


class Forge:
    """The host; a `alignit.webui.host.ports.Host`."""

    def __init__(self) -> None:
        """Make the ports; nothing of the host is asked for yet."""
        self.options = ForgeOptions()
        self.embeddings = ForgeEmbeddings()
        self.prompts = ForgePrompts(self.options)
        self.networks = A1111Networks()
        self.sampling = A1111Sampling()
        self.pictures = A1111Pictures(self.options)
        self.life = A1111LifeCycle()

    @property
    def loras(self) -> None:
        """See `alignit.webui.host.ports.Host`: LoRAs are patches of the model, of which none can be taken apart."""
        return None

    @property
    def version(self) -> str:
        """See `alignit.webui.host.ports.Host`."""
        try:
            from modules_forge import forge_version
        except ImportError:
            return "Forge"
        parts = (getattr(forge_version, name, "") for name in ("version", "release"))
        return " ".join(("Forge", *(str(part) for part in parts if part)))

    def model(self) -> ForgeModel:
        """See `alignit.webui.host.ports.Host`."""
        from modules import sd_models

        loaded = self.loaded_model()
        if loaded is not None:
            return loaded
        # As the host itself does before it makes a picture.
        sd_model, _ = sd_models.forge_model_reload()
        return ForgeModel(sd_model, self.options)

    def loaded_model(self) -> ForgeModel | None:
        """See `alignit.webui.host.ports.Host`."""
        sd_model = loaded_engine()
        return None if sd_model is None else ForgeModel(sd_model, self.options)
