"""Stands in for the WebUI's own package: what AlignIT touches of it, and no more."""
