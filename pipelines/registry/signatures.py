"""What each registered model is asked and answers: the columns that every version agrees on.

The one place where they are written down. Features come from the views' own schemas. A version may
do without some of them: it was trained before they were declared, or does not read them. What its
own signature names must be there, of the same type.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from pipelines.errors import UnknownNameError
from pipelines.features.views import view_named
from pipelines.registry.packaging import BrokenModelError

if TYPE_CHECKING:
    from feast import FeatureService
    from mlflow.models import ModelSignature

NUMBER: Final = "number"
COUNT: Final = "count"
FLAG: Final = "flag"
TEXT: Final = "text"
NUMBERS: Final = "numbers"
TEXTS: Final = "texts"
"""The types of columns; any value may be null, and so may a list."""
_OF_ARROW: Final = (
    (pa.types.is_floating, NUMBER),
    (pa.types.is_integer, COUNT),
    (pa.types.is_boolean, FLAG),
    (pa.types.is_string, TEXT),
)
DECISION_CONTEXT: Final = {
    "order_carbon_kg": NUMBER,
    "stock_after_order": COUNT,
    "urgency_weighted_delay": NUMBER,
    "value_at_risk": NUMBER,
}
"""The on-demand view, which no offline source holds."""


@dataclass(frozen=True)
class Contract:
    """One registered model's columns.

    Attributes:
        task: the name of its training task.
        folder: its folder in `pipelines/models`.
        service: the feature service that it reads.
        views: the feature views of that service that hold published rows.
        features: everything that the service has, as Feast names it: `view:feature`.
        inputs: type by column.
        optional: inputs that a caller may leave out, and outputs that a version may. Versions may
            also lack features as inputs.
        outputs: type by column.
        labels: the processed log in which its labels arrive.
    """

    task: str
    folder: str
    service: str
    views: tuple[str, ...]
    features: tuple[str, ...]
    inputs: Mapping[str, str]
    optional: frozenset[str]
    outputs: Mapping[str, str]
    labels: str


def features_of(*views: str) -> dict[str, str]:
    """The features of some views, with their types."""
    return {
        name: _kind(view_named(view).schema.field(name).type)
        for view in views
        for name in view_named(view).features
    }


def model_named(name: str) -> str:
    """The registered model of a name: its own, its task's, or that of its folder.

    Raises:
        UnknownNameError: there is no such model.
    """
    for model, contract in CONTRACTS.items():
        if name in (model, contract.task, contract.folder):
            return model
    raise UnknownNameError(f"there is no model {name!r}; there are: {', '.join(CONTRACTS)}")


def contract_of(model: str) -> Contract:
    """A registered model's columns.

    Raises:
        UnknownNameError: there is no such model.
    """
    if model not in CONTRACTS:
        raise UnknownNameError(f"there is no model {model!r}; there are: {', '.join(CONTRACTS)}")
    return CONTRACTS[model]


def without_unread(model: str, columns: Mapping[str, Any], read: Collection[str]) -> dict[str, Any]:
    """An example's columns without the features that no version reads: those may go or change.

    Args:
        model: one of MODELS.
        columns: by name.
        read: the features that are read.
    """
    unread = _feature_names(contract_of(model)).difference(read)
    return {name: values for name, values in columns.items() if name not in unread}


def not_applied(service: FeatureService) -> list[str]:
    """The declared features of a model's service that Feast does not know yet, as view:feature."""
    known = {
        f"{projection.name}:{feature.name}"
        for projection in service.feature_view_projections
        for feature in projection.features
    }
    (contract,) = (c for c in CONTRACTS.values() if c.service == service.name)
    return [name for name in contract.features if name not in known]


def check_columns(model: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
    """Check the columns of a new version's example against the model's contract.

    Args:
        model: one of MODELS.
        inputs: the example's input columns.
        outputs: its output columns.

    Raises:
        BrokenModelError: a column is missing or not in the contract.
    """
    contract = contract_of(model)
    needed = contract.inputs.keys() - contract.optional - _feature_names(contract)
    wrong = _differences("input", needed - inputs.keys(), inputs.keys() - contract.inputs.keys())
    wrong += _wrong_outputs(contract, outputs)
    if wrong:
        raise BrokenModelError(
            f"this is no version of {model}: {'; '.join(wrong)}; change "
            "pipelines/registry/signatures.py with everything that calls the model"
        )


def signature_of(
    model: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]
) -> ModelSignature:
    """MLflow's signature for a version whose example has these columns.

    Args:
        model: one of MODELS.
        inputs: the example's input columns.
        outputs: its output columns.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    contract = contract_of(model)
    asked: list[Any] = [
        ColSpec(_mlflow_type(kind), name, required=False)
        for name, kind in contract.inputs.items()
        if name in inputs
    ]
    answered: list[Any] = [
        ColSpec(_mlflow_type(kind), name)
        for name, kind in contract.outputs.items()
        if name in outputs
    ]
    return ModelSignature(inputs=Schema(asked), outputs=Schema(answered))


def check_signature(model: str, name: str, folder: Path) -> None:
    """Check that everything that a version was trained with is still there, of the same type.

    Args:
        model: one of MODELS.
        name: the version's, for messages.
        folder: the version's artifacts, with MLflow's `MLmodel`.

    Raises:
        BrokenModelError: it is not, or there is no signature that can be read.
    """
    import yaml
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    contract = contract_of(model)
    unreadable = (OSError, ValueError, LookupError, TypeError, AttributeError)
    help_ = f"`synchrochain rollback {model}`, or `synchrochain train {model}`"
    try:
        stored = Model.load(str(folder)).signature
        inputs = {column.name: column.type for column in stored.inputs}
        outputs = {column.name: column.type for column in stored.outputs}
    except (*unreadable, yaml.YAMLError, MlflowException):
        raise BrokenModelError(
            f"{folder / 'MLmodel'} is missing, damaged or has no signature: {help_}"
        ) from None
    gone = sorted(inputs.keys() - contract.inputs.keys())
    wrong = [f"it was trained with {', '.join(map(repr, gone))}, now gone"] if gone else []
    known = {**contract.inputs, **contract.outputs}
    for column, found in (inputs | outputs).items():
        if column in known and found != (wanted := _mlflow_type(known[column])):
            wrong.append(f"its {column!r} is {found!r}, and {wanted!r} now")
    wrong += _wrong_outputs(contract, outputs)
    if wrong:
        raise BrokenModelError(f"{name} does not fit any more: {'; '.join(wrong)}: {help_}")


def _feature_names(contract: Contract) -> set[str]:
    return {name.partition(":")[2] for name in contract.features}


def _wrong_outputs(contract: Contract, outputs: Mapping[str, Any]) -> list[str]:
    missing = contract.outputs.keys() - contract.optional - outputs.keys()
    return _differences("output", missing, outputs.keys() - contract.outputs.keys())


def _differences(what: str, missing: set[str], added: set[str]) -> list[str]:
    found = [("lacks", missing), ("has", added)]
    return [
        f"it {verb} the {what} {', '.join(repr(name) for name in sorted(names))}"
        + ("" if verb == "lacks" else ", which is not asked for")
        for verb, names in found
        if names
    ]


def _mlflow_type(kind: str) -> Any:
    from mlflow.types import DataType
    from mlflow.types.schema import AnyType, Array

    return {
        NUMBER: DataType.double,
        # MLflow's integers cannot be null, and its doubles refuse integers. A frame from Feast has
        # either, depending on whether a value is missing.
        COUNT: AnyType(),  # type: ignore[no-untyped-call]  # MLflow is untyped here
        FLAG: DataType.boolean,
        TEXT: DataType.string,
        NUMBERS: Array(DataType.double),
        TEXTS: Array(DataType.string),
    }[kind]


def _kind(type_: pa.DataType) -> str:
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return TEXTS if pa.types.is_string(type_.value_type) else NUMBERS
    return next(kind for fits, kind in _OF_ARROW if fits(type_))


def _contract(
    task: str,
    folder: str,
    service: str,
    views: tuple[str, ...],
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    *,
    labels: str,
    optional: Mapping[str, str] | None = None,
    optional_outputs: Mapping[str, str] | None = None,
    on_demand: Mapping[str, Mapping[str, str]] | None = None,
) -> Contract:
    named = {view: tuple(features_of(view)) for view in views}
    named |= {view: tuple(features) for view, features in (on_demand or {}).items()}
    return Contract(
        task=task,
        folder=folder,
        service=service,
        views=views,
        features=tuple(f"{view}:{name}" for view, names in named.items() for name in names),
        inputs={**inputs, **(optional or {})},
        optional=frozenset({**(optional or {}), **(optional_outputs or {})}),
        outputs={**outputs, **(optional_outputs or {})},
        labels=labels,
    )


CONTRACTS: Final[Mapping[str, Contract]] = {
    "intent_transformer": _contract(
        "intent",
        "intent",
        "intent_transformer_v1",
        ("session_events", "user_intent"),
        features_of("session_events", "user_intent"),
        {"purchase_probability": NUMBER, "urgency_class": TEXT, "urgency": NUMBER},
        labels="clickstream",
    ),
    "supply_gnn": _contract(
        "gnn",
        "delay",
        "supply_gnn_v1",
        ("route_conditions", "inventory_levels"),
        {
            "route_id": TEXT,
            "origin_id": TEXT,
            "destination_id": TEXT,
            "mode": TEXT,
            "distance_km": NUMBER,
            "base_hours": NUMBER,
            "base_cost": NUMBER,
            **features_of("route_conditions"),
            "warehouse_stock_ratio": NUMBER,
            "warehouse_low_stock_share": NUMBER,
            "warehouse_days_of_cover": NUMBER,
        },
        {
            "expected_delay_hours": NUMBER,
            "late_probability": NUMBER,
            "expected_carbon_kg": NUMBER,
        },
        labels="shipments",
        optional={"snapshot": COUNT},
        optional_outputs={"delay_index": NUMBER, "expected_risk": NUMBER},
    ),
    "ppo_agent": _contract(
        "ppo",
        "fulfilment",
        "ppo_agent_v1",
        ("user_intent", "user_orders", "inventory_levels", "route_conditions"),
        {
            **features_of("user_intent", "user_orders", "inventory_levels", "route_conditions"),
            **DECISION_CONTEXT,
            "quantity": COUNT,
            "price": NUMBER,
            "weight_kg": NUMBER,
            "shipping_method": TEXT,
            "ship_cost": NUMBER,
            "promised_hours": NUMBER,
            "wanted_hours": NUMBER,
            "expected_delay_hours": NUMBER,
            "late_probability": NUMBER,
            "urgency": NUMBER,
            "feasible": FLAG,
        },
        {"score": NUMBER},
        labels="orders",
        optional={"order": COUNT, "capacity_left": NUMBER, "decision_hour": NUMBER},
        on_demand={"decision_context": DECISION_CONTEXT},
    ),
}
"""By registered model."""
MODELS: Final = tuple(CONTRACTS)
CHAMPION: Final = "champion"
"""The alias of the version that decides."""
CHALLENGER: Final = "challenger"
