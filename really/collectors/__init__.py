"""Collecting: runners that step environments, the fleet that runs them, what a call orders and delivers."""
