"""A prompt's text and what stands beside concepts' files: names, class words, marks."""
