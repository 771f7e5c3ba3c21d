"""Transitions as columns: their schema, spaces, frames, returns, normalisation, and their Arrow forms."""
