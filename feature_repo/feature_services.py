"""What each model version reads: one feature service per version."""

from feast import FeatureService
from feature_views import (
    decision_context,
    inventory_levels,
    route_conditions,
    session_events,
    user_intent,
    user_orders,
)

intent_transformer_v1 = FeatureService(
    name="intent_transformer_v1",
    features=[session_events, user_intent],
    description="Input of the Intent Transformer: what will this shopper do",
    tags={"model": "intent_transformer", "version": "1"},
    owner="models",
)
supply_gnn_v1 = FeatureService(
    name="supply_gnn_v1",
    features=[route_conditions, inventory_levels],
    description="Input of the supply-chain GNN: which routes will be late",
    tags={"model": "supply_gnn", "version": "1"},
    owner="models",
)
ppo_agent_v1 = FeatureService(
    name="ppo_agent_v1",
    features=[user_intent, user_orders, inventory_levels, route_conditions, decision_context],
    description="Input of the PPO agent: which warehouse and shipping method for this order",
    tags={"model": "ppo_agent", "version": "1"},
    owner="models",
)
