"""The views of groups that SYNCHROCHAIN_FEATURES declares; what Feast must know is said there."""

from data_sources import offline_source
from entities import product, route, session, user, warehouse

from pipelines.feast_plugins.declared_schema import outside_views

for _one in outside_views(offline_source, [user, session, warehouse, product, route]):
    globals()[f"{type(_one).__name__}_{_one.name}"] = _one  # `feast apply` looks for names
