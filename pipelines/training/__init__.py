"""From point-in-time features to tracked, registered models."""
