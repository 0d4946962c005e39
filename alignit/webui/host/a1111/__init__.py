"""The AUTOMATIC1111 WebUI, and the hosts that kept its text encoders: reForge, Forge Classic.

The host's modules are imported where they are used: one that a host renamed or removed costs what needs it, and no
more.
"""

from __future__ import annotations

from alignit.webui.host.a1111.embeddings import A1111Embeddings
from alignit.webui.host.a1111.life import A1111LifeCycle
from alignit.webui.host.a1111.loras import A1111Loras, find_loras
from alignit.webui.host.a1111.model import A1111Model
from alignit.webui.host.a1111.networks import A1111Networks
from alignit.webui.host.a1111.options import A1111Options
from alignit.webui.host.a1111.pictures import A1111Pictures
from alignit.webui.host.a1111.prompts import A1111Prompts
from alignit.webui.host.a1111.sampling import A1111Sampling


def find() -> A1111 | None:
    """Return the host where it is one of these: embeddings and text encoders are behind its `model_hijack`."""
    try:
        from modules import sd_hijack
    except ImportError:
        return None
    return A1111() if hasattr(sd_hijack.model_hijack, "embedding_db") else None


class A1111:
    """The host; a `alignit.webui.host.ports.Host`."""

    def __init__(self) -> None:
        """Make the ports; nothing of the host is asked for yet."""
        self.options = A1111Options()
        self.embeddings = A1111Embeddings()
        self.prompts = A1111Prompts(self.options)
        self.networks = A1111Networks()
        self.sampling = A1111Sampling()
        self.pictures = A1111Pictures(self.options)
        self.life = A1111LifeCycle()

    @property
    def loras(self) -> A1111Loras | None:
        """See `alignit.webui.host.ports.Host`."""
        return find_loras()

    @property
    def version(self) -> str:
        """See `alignit.webui.host.ports.Host`."""
        try:
            from modules.launch_utils import git_tag
        except ImportError:
            return "WebUI"
        return f"WebUI {git_tag()}"

    def model(self) -> A1111Model:
        """See `alignit.webui.host.ports.Host`."""
        from modules import shared

        return A1111Model(shared.sd_model, self.options)

    def loaded_model(self) -> A1111Model | None:
        """See `alignit.webui.host.ports.Host`."""
        from modules import sd_models

        sd_model = sd_models.model_data.sd_model
        return None if sd_model is None else A1111Model(sd_model, self.options)
