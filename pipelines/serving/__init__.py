"""Decisions online: features, three models, an answer, a log."""
