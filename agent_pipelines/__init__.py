"""A self-hosted control plane for AI agents that work on their own, on Dagster's engine."""
