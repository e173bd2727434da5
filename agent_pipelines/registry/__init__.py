"""Tasks that are registered at run time: rows that are in force at once, without a new load of any code."""
