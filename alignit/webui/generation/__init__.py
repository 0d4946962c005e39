"""One generation: what is set up for it, and how nothing of it stays behind."""
