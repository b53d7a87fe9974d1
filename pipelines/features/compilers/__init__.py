"""What makes plans of declarations: for all rows, for the newest rows, and key by key."""
