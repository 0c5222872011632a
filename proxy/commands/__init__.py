"""The commands of the command line: each module has a `run`, and is imported when that command is given."""
