"""What AlignIT does on the miniature, measured with its classifier: each module is a command."""
