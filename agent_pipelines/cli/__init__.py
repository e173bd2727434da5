"""The command line: reads arguments, asks a noun, shows the answer. It holds no rule of its own."""
