"""The global picture."""
