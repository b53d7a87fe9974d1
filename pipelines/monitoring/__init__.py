"""Monitoring: whether the features and models served agree with the data."""
