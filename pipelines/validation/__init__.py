"""Validation of every change: types, rules, references, the meaning of its operation."""
