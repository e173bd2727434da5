"""What the record means: overviews and tables for analysis."""
