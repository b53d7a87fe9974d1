"""Rows into the online store: encoded by column, sent as wholes, each unless a newer is there."""
