"""Attention maps: where in a picture the model looked for a word."""
