"""What the example agents work on."""
