"""What the shopper will do: the Intent Transformer, from its features to its evaluation."""
