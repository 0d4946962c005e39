"""What can go wrong, in words for the user."""


class EvaluationError(Exception):
    """The evaluation cannot go on; the message says why, and what to do. What is made so far is kept."""
