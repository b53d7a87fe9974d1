"""Reading the change log: its rows, their types, and why rows are rejected."""
