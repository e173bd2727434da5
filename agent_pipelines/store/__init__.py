"""Where the record lives: SQLite by default, PostgreSQL by one setting, the same tables in both."""
