"""What the user sees and calls: panel, tabs, axes, API."""
