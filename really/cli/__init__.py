"""The command line: `really`, or `python -m really`. Each command has a file of its own."""
