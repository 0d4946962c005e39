"""What a concept is, the files that it comes in, and what it changes in a model."""
