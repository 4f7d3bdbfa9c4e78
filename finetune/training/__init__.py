"""One run: what a step is, what it is given, when to validate and save."""
