"""What can be configured, from where, and how a wrong setting is answered."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from pipelines.errors import ConfigurationError
from pipelines.settings import PROJECT_ROOT, BatchConfig, DataConfig, check_environment

Config = type[DataConfig] | type[BatchConfig]

# Field → the text of an environment variable and what it becomes.
DATA_FIELDS: dict[str, tuple[str, Any]] = {
    "data_dir": ("/elsewhere", Path("/elsewhere")),
    "redis_host": ("redis.example", "redis.example"),
    "redis_port": ("6380", 6380),
    "redis_db": ("3", 3),
    "redis_password": ("secret", SecretStr("secret")),
    "redis_timeout": ("2.5", 2.5),
    "db_path": ("/databases", Path("/databases")),
    "orders_url": ("postgresql://shop/orders", "postgresql://shop/orders"),
    "users_url": ("postgresql://shop/users", "postgresql://shop/users"),
    "inventory_url": ("postgresql://shop/stock", "postgresql://shop/stock"),
    "supply_chain_url": ("postgresql://shop/routes", "postgresql://shop/routes"),
    "busy_timeout": ("0.5", 0.5),
    "allowed_hosts": ("shop.example", "shop.example"),
    "cache_ttl": ("60", 60),
    "batch_size": ("10", 10),
    "processing_interval": ("7", 7),
    "allowed_lateness": ("600", 600),
}
BATCH_FIELDS: dict[str, tuple[str, Any]] = {
    "processing_interval": ("10", 10),
    "batch_size": ("50", 50),
    "memory": ("1.5GB", 1_500_000_000),
    "retention_days": ("7", 7),
    "feature_store_path": ("/features", Path("/features")),
    "processed_data_path": ("/processed", Path("/processed")),
    "feature_repo_path": ("/repo", Path("/repo")),
    "merge_files": ("4", 4),
    "retry_attempts": ("2", 2),
    "retry_max_wait": ("0.1", 0.1),
}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("SYNCHROCHAIN_")]:
        monkeypatch.delenv(name)


def refusal(config: Config, **values: Any) -> str:
    """The one line with which the values are refused."""
    with pytest.raises(ConfigurationError) as caught:
        config(**values)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def test_the_data_layer_has_the_agreed_defaults() -> None:
    """Redis on its usual port, an hour in the cache, a thousand rows, every five seconds."""
    config = DataConfig()
    assert (config.redis_port, config.redis_db) == (6379, 0)
    assert (config.cache_ttl, config.batch_size, config.processing_interval) == (3600, 5000, 5)
    assert config.redis_host is None


def test_the_batch_flow_has_the_agreed_defaults() -> None:
    """Every five minutes, ten thousand rows at a time, thirty days kept."""
    config = BatchConfig()
    assert (config.processing_interval, config.batch_size) == (300, 10_000)
    assert config.retention_days == 30


def test_without_a_word_everything_lies_in_the_project() -> None:
    """The default data directory stands beside the code, whatever the working directory."""
    assert DataConfig().data_dir == BatchConfig().data_dir == PROJECT_ROOT / "data"
    assert BatchConfig().feature_repo_path == PROJECT_ROOT / "feature_repo"


def test_no_field_is_left_out_of_these_tests() -> None:
    """Whoever adds a setting adds it to the tables above."""
    assert DATA_FIELDS.keys() == DataConfig.model_fields.keys()
    assert BATCH_FIELDS.keys() | {"data_dir"} == BatchConfig.model_fields.keys()


@pytest.mark.parametrize("field", DATA_FIELDS)
def test_a_variable_sets_a_field_of_the_data_layer(
    monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """SYNCHROCHAIN_<FIELD>."""
    text, value = DATA_FIELDS[field]
    monkeypatch.setenv(f"SYNCHROCHAIN_{field.upper()}", text)
    check_environment()
    assert getattr(DataConfig(), field) == value


@pytest.mark.parametrize("field", BATCH_FIELDS)
def test_a_variable_sets_a_field_of_the_batch_flow(
    monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """SYNCHROCHAIN_BATCH_<FIELD>, so that both intervals and batch sizes can differ."""
    text, value = BATCH_FIELDS[field]
    monkeypatch.setenv(f"SYNCHROCHAIN_BATCH_{field.upper()}", text)
    check_environment()
    assert getattr(BatchConfig(), field) == value
    if field in DATA_FIELDS:
        assert getattr(DataConfig(), field) == DataConfig.model_fields[field].default


def test_code_outranks_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is passed in wins over a variable."""
    monkeypatch.setenv("SYNCHROCHAIN_DATA_DIR", "/elsewhere")
    monkeypatch.setenv("SYNCHROCHAIN_REDIS_PORT", "7000")
    assert DataConfig(redis_port=7001).redis_port == 7001
    assert DataConfig(data_dir=tmp_path).data_dir == tmp_path
    assert BatchConfig(data_dir=tmp_path).data_dir == tmp_path


@pytest.mark.parametrize("by_variable", [True, False])
def test_one_data_directory_moves_everything(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by_variable: bool
) -> None:
    """Databases, files, state, registry, Redis and MLflow all follow."""
    values: dict[str, Any] = {} if by_variable else {"data_dir": tmp_path}
    if by_variable:
        monkeypatch.setenv("SYNCHROCHAIN_DATA_DIR", str(tmp_path))
    data, batch = DataConfig(**values), BatchConfig(**values)
    places = [
        data.db_path,
        data.redis_dir,
        batch.processed_data_path,
        batch.feature_store_path,
        batch.offline_path,
        batch.registry_path,
        batch.state_path,
        batch.quarantine_path,
        batch.mlflow_path,
    ]
    assert all(place.is_relative_to(tmp_path) for place in places), places
    assert data.database_url("users") == f"sqlite:///{tmp_path}/live_databases/users.db"
    assert batch.mlflow_uri == f"sqlite:///{tmp_path}/mlflow/mlflow.db"


def test_a_path_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A later change of the working directory changes nothing; ~ is the user's home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "somebody"))
    assert DataConfig(data_dir="here").data_dir == tmp_path / "here"
    assert BatchConfig(data_dir="~/data").data_dir == tmp_path / "somebody" / "data"


@pytest.mark.parametrize(
    ("config", "field", "value", "allowed"),
    [
        (DataConfig, "redis_port", 0, "greater than or equal to 1"),
        (DataConfig, "redis_port", 65536, "less than or equal to 65535"),
        (DataConfig, "redis_port", "six", "a valid integer"),
        (DataConfig, "redis_db", -1, "greater than or equal to 0"),
        (DataConfig, "redis_host", "", "at least one character"),
        (DataConfig, "redis_timeout", 0, "greater than 0"),
        (DataConfig, "busy_timeout", -0.1, "greater than or equal to 0"),
        (DataConfig, "orders_url", "", "at least one character"),
        (DataConfig, "cache_ttl", 0, "greater than or equal to 1"),
        (DataConfig, "batch_size", 1_000_001, "less than or equal to 1000000"),
        (DataConfig, "processing_interval", 1.5, "a valid integer"),
        (DataConfig, "allowed_lateness", -1, "greater than or equal to 0"),
        (DataConfig, "data_dir", 3, "a path"),
        (BatchConfig, "data_dir", "", "a path"),
        (BatchConfig, "processing_interval", 0, "greater than or equal to 1"),
        (BatchConfig, "batch_size", "many", "a valid integer"),
        (BatchConfig, "memory", "much", 'a number of bytes such as "2GB"'),
        (BatchConfig, "memory", "2XB", 'a number of bytes such as "2GB"'),
        (BatchConfig, "memory", "100MB", "greater than or equal to 512000000"),
        (BatchConfig, "retention_days", 0, "greater than or equal to 1"),
        (BatchConfig, "retry_attempts", 0, "greater than or equal to 1"),
        (BatchConfig, "retry_max_wait", -1, "greater than or equal to 0"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(
    config: Config, field: str, value: Any, allowed: str
) -> None:
    """The line names the field, the value and what is allowed; the exit status is 2."""
    message = refusal(config, **{field: value})
    assert message.startswith(f"{config.__name__}.{field} = {value!r} is not allowed: it must be ")
    assert message.partition("it must be ")[2].startswith(allowed)


def test_a_wrong_variable_is_refused_by_the_name_of_its_field(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It makes no difference where the value came from."""
    monkeypatch.setenv("SYNCHROCHAIN_BATCH_RETENTION_DAYS", "soon")
    message = refusal(BatchConfig)
    assert message.startswith("BatchConfig.retention_days = 'soon' is not allowed")


def test_an_empty_data_directory_is_not_the_working_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SYNCHROCHAIN_DATA_DIR= is an accident: nothing is scattered about."""
    monkeypatch.setenv("SYNCHROCHAIN_DATA_DIR", "")
    for config in (DataConfig, BatchConfig):
        assert "data_dir = '' is not allowed" in refusal(config)


def test_a_password_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the configuration's text nor in a refusal."""
    monkeypatch.setenv("SYNCHROCHAIN_REDIS_PASSWORD", "hush")
    assert "hush" not in repr(DataConfig())
    assert "81" not in refusal(DataConfig, redis_password=81)


@pytest.mark.parametrize("config", [DataConfig, BatchConfig])
def test_an_unknown_field_is_refused_with_the_known_ones(config: Config) -> None:
    """A misspelt keyword does not vanish."""
    message = refusal(config, retention=3)
    assert message.startswith(f"{config.__name__} has no field 'retention'; it has: ")
    assert all(name in message for name in config.model_fields)


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("SYNCHROCHAIN_REDISPORT", "SYNCHROCHAIN_REDIS_PORT"),
        ("SYNCHROCHAIN_BATCH_RETENTION", "SYNCHROCHAIN_BATCH_RETENTION_DAYS"),
        ("SYNCHROCHAIN_DATADIR", "SYNCHROCHAIN_DATA_DIR"),
    ],
)
def test_a_misspelt_variable_is_refused_with_a_suggestion(misspelt: str, meant: str) -> None:
    """Otherwise it would change nothing without a word."""
    with pytest.raises(ConfigurationError, match=f"^{misspelt}: .* did you mean {meant}\\?$"):
        check_environment({misspelt: "1"})


def test_a_variable_that_resembles_nothing_gets_no_suggestion() -> None:
    """The common prefix alone makes no likeness."""
    with pytest.raises(ConfigurationError, match="no such setting; unset it"):
        check_environment({"SYNCHROCHAIN_XYZZY": "1"})


def test_the_batch_flow_has_no_data_directory_of_its_own() -> None:
    """A variable that would split the data directory in two is refused, for it has no effect."""
    with pytest.raises(ConfigurationError, match="SYNCHROCHAIN_BATCH_DATA_DIR"):
        check_environment({"SYNCHROCHAIN_BATCH_DATA_DIR": "/elsewhere"})


def test_variables_of_others_are_left_alone() -> None:
    """Only the prefix is ours."""
    check_environment({"PATH": "/bin", "REDIS_PORT": "1", "MLFLOW_TRACKING_URI": "x"})


@pytest.mark.parametrize("config", [DataConfig, BatchConfig])
def test_a_configuration_is_frozen(config: Config) -> None:
    """It is made once, at the edge, and never changes under its readers."""
    made = config()
    with pytest.raises(ValidationError, match="frozen"):
        made.batch_size = 7
    assert made == config()
