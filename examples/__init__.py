"""The example pipelines: agents that do real work by rules and tools, and the data that they work on."""
