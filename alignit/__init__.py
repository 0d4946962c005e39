"""AlignIT: keys and values of a custom concept, injected at its class word (arXiv 2406.18893, Algorithm 1)."""

__version__ = "0.2.0"
