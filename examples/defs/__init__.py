"""The tasks of the examples, one folder each, and the agents that they run on."""
