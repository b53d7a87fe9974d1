"""What `synchrochain bench` runs."""
