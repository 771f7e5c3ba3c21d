"""One adapter a framework: what agents and runners need of TensorFlow, PyTorch, JAX, or of plain Python callables."""
