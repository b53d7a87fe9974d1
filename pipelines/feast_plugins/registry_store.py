"""A registry file in the data directory, replaced in one step."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Final

from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from feast.repo_config import RegistryConfig
from google.protobuf.message import DecodeError

from pipelines.feast_plugins.registry_file import damaged_registry, sealed, unsealed
from pipelines.file_kinds import check_file
from pipelines.lake.clock import aware_now
from pipelines.lake.publishing import full_disk_reported
from pipelines.settings import BatchConfig

TRACKING_VARIABLE: Final = "MLFLOW_TRACKING_URI"
# Without it MLflow puts a new experiment's artifacts into ./mlruns of the first process.
ARTIFACTS_VARIABLE: Final = "_MLFLOW_SERVER_ARTIFACT_ROOT"


class DataDirRegistryStore(FileRegistryStore):
    """Feast's registry file, found through SynchroChain's settings instead of the YAML file.

    `feature_store.yaml` can neither give a default to an environment variable nor point MLflow at
    a path that is valid from any working directory. Every process that opens the feature store
    makes one of these first, so both are set here.
    """

    def __init__(self, registry_config: RegistryConfig, repo_path: Path) -> None:
        del registry_config, repo_path
        config = BatchConfig()
        self._filepath = config.registry_path
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # Feast is about to import it
        if TRACKING_VARIABLE not in os.environ:
            config.mlflow_path.mkdir(parents=True, exist_ok=True)
            os.environ[TRACKING_VARIABLE] = config.mlflow_uri
            os.environ[ARTIFACTS_VARIABLE] = config.mlflow_artifacts

    def get_registry_proto(self) -> RegistryProto:
        """The registry as the file holds it.

        Raises:
            FileNotFoundError: there is none yet.
            RegistryFileError: it is damaged.
            NewerFormatError: a newer version has written it.
            UnusablePathError: it is no file that can be read.
        """
        check_file(self._filepath)
        try:
            content = self._filepath.read_bytes()
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{self._filepath} is not there: `synchrochain batch --once` makes it"
            ) from None
        try:
            return RegistryProto.FromString(unsealed(self._filepath, content))
        except DecodeError as error:
            raise damaged_registry(self._filepath, str(error)) from None

    def _write_registry(self, registry_proto: RegistryProto) -> None:
        # Feast writes in place, where another process may read half a registry.
        registry_proto.version_id = str(uuid.uuid4())
        registry_proto.last_updated.FromDatetime(aware_now())
        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        partial = self._filepath.with_name(f".{self._filepath.name}.{uuid.uuid4().hex}")
        try:
            with full_disk_reported(self._filepath.parent), partial.open("wb") as stream:
                stream.write(sealed(registry_proto.SerializeToString()))
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(self._filepath)
        finally:
            partial.unlink(missing_ok=True)
