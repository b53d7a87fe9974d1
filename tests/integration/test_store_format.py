"""The online store carries a format: an old one is taken on, a newer one is refused by all."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.batch import BatchConfig
from pipelines.batch.update import fill_if_emptied
from pipelines.errors import NewerFormatError
from pipelines.feast_plugins.repository import open_store
from pipelines.features.views import VIEWS_BY_NAME
from pipelines.lake.state import PipelineState
from pipelines.redis_server import connect, ensure_server
from pipelines.redis_server.store_format import FORMAT, KEY
from pipelines.settings import DataConfig
from pipelines.streaming.online_sink import OnlineSink


def test_a_store_without_a_format_gets_one_and_is_not_filled_again(folder: Path) -> None:
    """By the next cycle; its rows are what they were."""
    config, data = BatchConfig(data_dir=folder), DataConfig(data_dir=folder)
    state = PipelineState(config.state_path)
    fill_if_emptied(config, data, state)
    with connect(ensure_server(data)) as client:
        client.delete(KEY)
        assert not fill_if_emptied(config, data, state)
        assert client.get(KEY) == str(FORMAT).encode()


def test_a_store_of_a_newer_version_is_refused_in_one_line(folder: Path) -> None:
    """By the batch flow, by the streamer and by whoever reads."""
    config, data = BatchConfig(data_dir=folder), DataConfig(data_dir=folder)
    state = PipelineState(config.state_path)
    view = VIEWS_BY_NAME["user_orders"]
    with connect(ensure_server(data)) as client:
        client.set(KEY, FORMAT + 1)
        try:
            said = rf"online store at .* \(format {FORMAT + 1}, this one knows up to {FORMAT}\)"
            with pytest.raises(NewerFormatError, match=said):
                fill_if_emptied(config, data, state)
            sink = OnlineSink(data, "synchrochain", clock=lambda: 0.0)
            with pytest.raises(NewerFormatError, match=said):
                sink.write(view, pa.Table.from_pylist([], view.schema))
            with pytest.raises(NewerFormatError, match=said):
                open_store(config).get_online_features(
                    features=["user_orders:orders_30d"], entity_rows=[{"user_id": 1}]
                )
            assert client.get(KEY) == str(FORMAT + 1).encode()
        finally:
            client.delete(KEY)
