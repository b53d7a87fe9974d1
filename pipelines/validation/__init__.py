"""What every change goes through: types, rules, references, the meaning of its operation."""
