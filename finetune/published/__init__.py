"""Published checkpoints and data sets: their addresses, how they are fetched, checked, kept and unpacked."""
