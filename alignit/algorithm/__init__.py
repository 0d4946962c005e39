"""Algorithm 1 of arXiv 2406.18893, line by line, and what a user can change of it."""
