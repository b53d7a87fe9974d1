"""A package inside MLflow: a logged pyfunc model of a run, which names what it reads from Feast."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from pipelines.errors import UnknownNameError
from pipelines.registry import pyfunc
from pipelines.registry.packaging import BrokenModelError, as_inputs, outputs_of, read_package
from pipelines.registry.signatures import contract_of, signature_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

SERVICE_TAG: Final = "feast.feature_service"


def check_round_trip(package: Path, example: Mapping[str, Any], outcome: Mapping[str, Any]) -> None:
    """Check that a saved model answers its example as the model itself did.

    Args:
        package: the saved model's folder.
        example: a few rows of input, equally long columns.
        outcome: the model's own output for them.

    Raises:
        BrokenModelError: it does not load, or answers differently.
    """
    answered = outputs_of(read_package(package), as_inputs(example))
    for name, wanted in outcome.items():
        found, expected = np.asarray(answered.get(name)), np.asarray(wanted)
        if found.shape == expected.shape and expected.dtype.kind in "fiub":
            equal = np.allclose(found.astype(float), expected, rtol=1e-4, atol=1e-5, equal_nan=True)
        else:
            equal = bool(np.array_equal(found, expected))
        if not equal:
            raise BrokenModelError(
                f"the saved model answers its example with another {name!r} than the model itself: "
                "what it saves is not all that it needs"
            )


def log_package(
    client: MlflowClient,
    package: Path,
    model: str,
    kind: str,
    run_id: str,
    example: Mapping[str, Any],
    outcome: Mapping[str, Any],
) -> tuple[str, str]:
    """Store a package as a pyfunc model of a run, with its signature and the example.

    Args:
        client: MLflow's.
        package: the saved model's folder.
        model: one of MODELS.
        kind: its packaging kind.
        run_id: the MLflow run.
        example: a few rows of input, equally long columns.
        outcome: the model's output for them.

    Returns:
        The logged model's id, and the path of its artifacts.

    Raises:
        UnknownNameError: there is no such run.
    """
    import mlflow.pyfunc
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise UnknownNameError(f"there is no run {run_id!r} in {client.tracking_uri}") from None
    contract = contract_of(model)
    logged = client.create_logged_model(
        run.info.experiment_id, name=model, source_run_id=run_id, params={"kind": kind}
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = str(Path(scratch) / "model")
        mlflow.pyfunc.save_model(
            folder,
            loader_module=pyfunc.__name__,
            data_path=str(package),
            mlflow_model=Model(
                artifact_path=logged.artifact_location,
                model_uuid=logged.model_id,
                run_id=run_id,
                model_id=logged.model_id,
            ),
            signature=signature_of(model, example, outcome),
            input_example=_frame(example),
            pip_requirements=[_requirement()],
        )
        client.log_model_artifacts(logged.model_id, folder)
    client.log_outputs(run_id, models=[LoggedModelOutput(logged.model_id, step=0)])
    client.finalize_logged_model(logged.model_id, "READY")
    # Feast compares these with the service as it is when the model is resolved.
    client.set_tag(run_id, SERVICE_TAG, contract.service)
    client.log_text(run_id, json.dumps(contract.features), "feast_features.json")
    return str(logged.model_id), str(logged.artifact_location)


def _frame(columns: Mapping[str, Any]) -> pd.DataFrame:
    plain = as_inputs(columns)
    return pd.DataFrame({name: pd.Series(values) for name, values in plain.items()})


def _requirement() -> str:
    try:
        return f"synchrochain[models]=={version('synchrochain')}"
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "synchrochain[models]"
