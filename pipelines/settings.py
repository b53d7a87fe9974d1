"""Configuration: one frozen, validated object per concern, made at the edge and passed in.

Every field can be set in code or by an environment variable: `SYNCHROCHAIN_<FIELD>` for
`DataConfig`, `SYNCHROCHAIN_BATCH_<FIELD>` for `BatchConfig`; `SYNCHROCHAIN_DATA_DIR` moves
everything that either of them points to.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pipelines.errors import ConfigurationError
from pipelines.paths import absolute, duckdb_pattern, sqlite_url

PROJECT_ROOT: Final = Path(__file__).resolve().parents[1]
ENV_PREFIX: Final = "SYNCHROCHAIN_"
FEATURES: Final = f"{ENV_PREFIX}FEATURES"
"""Names modules that declare tables and groups; see `extensions`."""
LEAST_MEMORY: Final = 512_000_000
"""Bytes; the libraries alone take half of it."""
DATABASE_NAMES: Final = ("orders", "users", "inventory", "supply_chain")


def _named(value: Any) -> Any:
    # An empty variable would otherwise mean the working directory of whoever started the process.
    if value == "":
        raise ValueError("a path")
    return value


AbsolutePath = Annotated[Path, BeforeValidator(_named), AfterValidator(absolute)]
DatabaseUrl = Annotated[str | None, Field(min_length=1)]


def _host_names(text: str) -> str:
    if not all(_HOST_NAME.fullmatch(name.strip()) for name in text.split(",") if name.strip()):
        raise ValueError("host names without ports, separated by commas")
    return text


_HOST_NAME: Final = re.compile(r"[A-Za-z0-9._-]+|[0-9a-fA-F:.]+")
HostNames = Annotated[str, AfterValidator(_host_names)]


class _Settings(BaseSettings):
    """What both configurations share: the data directory, freezing and one-line errors."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, frozen=True, extra="forbid", validate_default=True
    )

    data_dir: AbsolutePath = PROJECT_ROOT / "data"

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigurationError(_one_line(error, type(self))) from None


class DataConfig(_Settings):
    """Where the data lies, which Redis serves it, and how the real-time side behaves.

    Durations are seconds. `redis_host` unset means a private server for this data directory;
    set, that server is used or the command stops, never another one. `allowed_hosts` are names,
    separated by commas, that HTTP requests may ask for beside the loopback ones.
    """

    redis_host: str | None = Field(default=None, min_length=1)
    redis_port: int = Field(default=6379, ge=1, le=65535)
    redis_db: int = Field(default=0, ge=0, le=15)
    redis_password: SecretStr | None = None
    redis_timeout: float = Field(default=0.8, gt=0, le=60)

    db_path: AbsolutePath = Field(
        default_factory=lambda values: values["data_dir"] / "live_databases"
    )
    orders_url: DatabaseUrl = None
    users_url: DatabaseUrl = None
    inventory_url: DatabaseUrl = None
    supply_chain_url: DatabaseUrl = None
    busy_timeout: float = Field(default=5.0, ge=0, le=300)

    allowed_hosts: HostNames = ""

    cache_ttl: int = Field(default=3600, ge=1)
    batch_size: int = Field(default=5000, ge=1, le=1_000_000)
    processing_interval: int = Field(default=5, ge=1)
    allowed_lateness: int = Field(default=3600, ge=0)

    def database_url(self, name: str) -> str:
        """The SQLAlchemy URL of one live database: as configured, else a file in `db_path`."""
        configured: str | None = getattr(self, f"{name}_url")
        return configured or sqlite_url(self.db_path / f"{name}.db")

    @property
    def names_allowed(self) -> frozenset[str]:
        """The names beside loopback ones that HTTP requests may ask for: `allowed_hosts`."""
        return frozenset(name.strip().lower() for name in self.allowed_hosts.split(",")) - {""}

    @property
    def redis_dir(self) -> Path:
        """Where the private Redis keeps its files, one directory per engine and version."""
        return self.data_dir / "redis"


class BatchConfig(_Settings):
    """How often the batch flow runs, in what portions, where it writes and how long it keeps.

    `processing_interval` is seconds, `batch_size` rows, `retention_days` days; `merge_files` small
    files of one log or view are merged into one. `memory` is bytes, such as "2GB": what the process
    of a cycle may hold; beyond it a cycle spills to disk.
    """

    model_config = SettingsConfigDict(env_prefix=f"{ENV_PREFIX}BATCH_")

    data_dir: AbsolutePath = Field(
        default=PROJECT_ROOT / "data", validation_alias=f"{ENV_PREFIX}DATA_DIR"
    )
    processing_interval: int = Field(default=300, ge=1)
    batch_size: int = Field(default=10_000, ge=1, le=10_000_000)
    memory: Annotated[ByteSize, Field(ge=LEAST_MEMORY)] = ByteSize(2_000_000_000)
    retention_days: int = Field(default=30, ge=1)
    feature_store_path: AbsolutePath = Field(
        default_factory=lambda values: values["data_dir"] / "feature_store"
    )
    processed_data_path: AbsolutePath = Field(
        default_factory=lambda values: values["data_dir"] / "processed"
    )
    feature_repo_path: AbsolutePath = PROJECT_ROOT / "feature_repo"
    merge_files: int = Field(default=24, ge=2, le=10_000)
    retry_attempts: int = Field(default=4, ge=1, le=100)
    retry_max_wait: float = Field(default=5.0, ge=0)

    def __init__(self, **values: Any) -> None:
        if "data_dir" in values:
            values[f"{ENV_PREFIX}DATA_DIR"] = values.pop("data_dir")
        super().__init__(**values)

    @property
    def offline_path(self) -> Path:
        """The folder of the offline sources: one folder per feature view."""
        return self.feature_store_path / "offline"

    @property
    def registry_path(self) -> Path:
        """Feast's registry file."""
        return self.feature_store_path / "registry.db"

    @property
    def state_path(self) -> Path:
        """Offsets, cycles and published files."""
        return self.data_dir / "pipeline_state.db"

    @property
    def quarantine_path(self) -> Path:
        """Rows that failed a check, one folder per live table."""
        return self.data_dir / "quarantine"

    @property
    def mlflow_path(self) -> Path:
        """MLflow's database and artifacts."""
        return self.data_dir / "mlflow"

    @property
    def mlflow_uri(self) -> str:
        """MLflow's tracking and registry URI."""
        return sqlite_url(self.mlflow_path / "mlflow.db")

    @property
    def mlflow_artifacts(self) -> str:
        """Where MLflow puts artifacts: a URI, for MLflow writes it into SQL and into paths."""
        return (self.mlflow_path / "artifacts").as_uri()

    def offline_pattern(self, view: str) -> str:
        """What matches a view's offline sources and nothing else, as Feast's sources name them."""
        return f"{duckdb_pattern(self.offline_path / view)}/*.parquet"


def foreign_environment() -> dict[str, str]:
    """The environment without settings of ours."""
    return {n: text for n, text in os.environ.items() if not n.upper().startswith(ENV_PREFIX)}


def check_environment(environment: Mapping[str, str] | None = None) -> None:
    """Refuse a misspelt variable, which would otherwise change nothing without a word.

    Raises:
        ConfigurationError: a `SYNCHROCHAIN_…` variable names no setting.
    """
    known = {f"{ENV_PREFIX}{name}".upper() for name in DataConfig.model_fields}
    own = BatchConfig.model_fields.keys() - {"data_dir"}  # DataConfig's variable moves both
    known |= {f"{ENV_PREFIX}BATCH_{name}".upper() for name in own}
    known.add(FEATURES)
    for name in sorted(os.environ if environment is None else environment):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            # Without the prefix, which is alike in all of them.
            ends = sorted(setting.removeprefix(ENV_PREFIX) for setting in known)
            near = difflib.get_close_matches(name.upper().removeprefix(ENV_PREFIX), ends, n=1)
            hint = f"did you mean {ENV_PREFIX}{near[0]}?" if near else "unset it"
            raise ConfigurationError(f"{name}: there is no such setting; {hint}")


_BYTES: Final = 'a number of bytes such as "2GB"'
_WORDS: Final = {
    "string_too_short": "at least one character",
    "path_type": "a path",
    "byte_size": _BYTES,
    "byte_size_unit": _BYTES,
}


def _one_line(error: ValidationError, owner: type[_Settings]) -> str:
    first = error.errors()[0]
    field = str(first["loc"][0]) if first["loc"] else owner.__name__
    field = field.removeprefix(ENV_PREFIX).lower()
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        allowed = ", ".join(sorted(owner.model_fields))
        return f"{owner.__name__} has no field {field!r}; it has: {allowed}"
    allowed = _WORDS.get(first["type"]) or first["msg"]
    allowed = allowed.removeprefix("Input should be ").removeprefix("Value error, ")
    value = "…" if "password" in field else repr(first.get("input"))
    return f"{owner.__name__}.{field} = {value} is not allowed: it must be {allowed}"
