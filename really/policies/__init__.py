"""Policies of the runners, in NumPy: sampling types, exact log-probabilities, and the exported model's forward pass."""
