"""AlignIT for the AUTOMATIC1111 WebUI: registers with the host, holds no logic."""

from alignit.webui.ui.callbacks import register
from alignit.webui.ui.script import AlignITScript

__all__ = ["AlignITScript"]

register()
