"""Helpers of all wings: checks of arguments, files that appear complete or not at all, memory, forks, progress bars."""
