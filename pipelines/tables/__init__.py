"""The live tables and their logs, each declared once: columns, types, rules, references."""
