"""Point-in-time retrieval: one ASOF join per view in DuckDB, streamed from Parquet."""
