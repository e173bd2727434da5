"""What happened: specifications, executions, attempts, events, spans, and what is to be told of them."""
