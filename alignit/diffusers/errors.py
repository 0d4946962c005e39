"""What the diffusers host tells its caller."""

from __future__ import annotations


class AlignITError(ValueError):
    """Something cannot be done; the message names the cause and the mend."""


class AlignITWarning(UserWarning):
    """The pictures are made, and are not what one may expect; the message names the cause and the mend."""
