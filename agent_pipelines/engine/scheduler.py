"""Dagster's scheduler with a second hand: keeps the time of all tasks of ours, and leaves other schedules to Dagster."""
