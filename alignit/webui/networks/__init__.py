"""The networks that AlignIT adds to prompts, ``<keyword:...>``."""
