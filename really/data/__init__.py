"""Transitions as columns: spaces, schema, frames stored once, returns, normalisation, Arrow."""
