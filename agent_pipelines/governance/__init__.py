"""What agents and people may do, and who did it."""
