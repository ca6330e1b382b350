"""Training: rows, the starter, and later GRPO on verl (extra `train`)."""
