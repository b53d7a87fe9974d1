"""One folder per model, from its features to its evaluation."""
