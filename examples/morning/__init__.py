"""What the report about the night is made from."""
