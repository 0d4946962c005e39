"""Which host this is."""

from __future__ import annotations


def host_version() -> str:
    """Return the host's version, as it shows it itself; empty where it has none."""
    try:
        from modules.launch_utils import git_tag  # noqa: PLC0415
    except ImportError:
        return ""
    return str(git_tag())
