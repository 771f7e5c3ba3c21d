"""Ray for collectors and the replay service: the runtime, its nodes, and what actors hold of them."""
