"""Time and processes: due instants, ticks, intake, and the way to Dagster. Knows nothing of agents."""
