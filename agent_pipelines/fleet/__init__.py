"""Which nodes agents have, what runs on them, how well they are, and the work that is handed to those that fetch it."""
