"""The WebUI wing without a WebUI: what needs no more of one than an object to stand in for it."""
