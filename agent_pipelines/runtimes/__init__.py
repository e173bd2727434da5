"""Adapters: an Invocation in, a stream of AgentEvents out. One file each; an adapter only converts."""
