"""What is frozen is computed once: where the trunk ends, the network in two parts, the features between them."""
