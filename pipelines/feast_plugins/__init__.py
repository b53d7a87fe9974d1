"""SynchroChain behind Feast's own extension points: registry store, offline and online store."""
