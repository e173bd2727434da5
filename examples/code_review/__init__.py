"""A small git history with some real defects, and the agents' way to it."""
