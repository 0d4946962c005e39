"""AlignIT for the AUTOMATIC1111 WebUI: registers with the host, holds no logic."""

from alignit.webui.callbacks import register
from alignit.webui.script import AlignITScript

__all__ = ["AlignITScript"]

register()
