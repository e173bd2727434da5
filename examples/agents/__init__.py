"""Six agents served over HTTP in the OpenAI protocol: `python -m examples.agents --ready-file FILE`."""
