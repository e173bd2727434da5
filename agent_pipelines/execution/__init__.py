"""One execution from request to record: admit, compose, invoke, settle."""
