"""A network's variables, the plan for them, and the checkpoints that hold their values."""
