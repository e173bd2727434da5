"""What the agent is given: prompts, conversations, the state of its task, cut to its window."""
