"""Which routes will be late: the supply-chain GNN, from its features to its evaluation."""
