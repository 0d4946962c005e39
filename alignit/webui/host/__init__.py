"""The WebUI as AlignIT sees it."""
