"""Acting with NumPy alone: sampling types, exact log-probabilities, the forward pass of an exported model."""
