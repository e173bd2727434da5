"""Flow control: limits, who holds permits of them, and how they are shared."""
