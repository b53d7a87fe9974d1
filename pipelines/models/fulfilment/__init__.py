"""Which warehouse and shipping method: the PPO agent, from its features to its evaluation."""
