"""A miniature Stable Diffusion: small, in the format of SD 1, trained from nothing on painted scenes."""
