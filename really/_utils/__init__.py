"""What every wing may use: checks of arguments, files that appear whole or not at all, memory, forks, progress."""
