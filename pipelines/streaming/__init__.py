"""The real-time flow: from a commit in a live database to a served feature."""

from pipelines.streaming.data_streamer import DataStreamer

__all__ = ["DataStreamer"]
