"""What a year of flights says about each airline, month by month: many small items, and one result."""
