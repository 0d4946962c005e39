class UserMetadataEditor:
    """The editor behind a card."""
