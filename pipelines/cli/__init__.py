"""The command line: a module per group of commands, what they show beside it."""
