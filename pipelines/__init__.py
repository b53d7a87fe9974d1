"""SynchroChain's pipelines: from the change log of live databases to served features."""
