"""AlignIT in the WebUI, against a small fake of the host's own modules at their edge: no server, seconds."""
