"""Run by the WebUI at each start. AlignIT runs on the packages that the WebUI brings: there is nothing to install."""
