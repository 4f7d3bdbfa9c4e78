"""Paths with a scheme: a local copy stands for what lies at a URL, fetched before a command works and sent back."""
