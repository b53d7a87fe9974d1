"""Reading the change log: what its rows mean, how they are typed, and which are refused."""
