"""The commands of ``python -m evaluation``: in each module ``command`` takes its words and returns the exit status."""
