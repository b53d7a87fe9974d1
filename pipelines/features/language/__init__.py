"""The language of declarations: types, expressions, rows of logs, aggregations, groups."""
