"""The models: networks, losses, encodings and the environment; no input, no output, nothing else
of ours."""
