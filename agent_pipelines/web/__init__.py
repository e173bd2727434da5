"""Dagster's web server with an HTTP interface of ours beside it."""
