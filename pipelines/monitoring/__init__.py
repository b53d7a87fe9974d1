"""Watching the platform: whether what is served is what the data say."""
