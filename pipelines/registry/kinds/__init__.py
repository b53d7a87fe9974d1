"""The kinds of model that can be served, one module per registered model."""
