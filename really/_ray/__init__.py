"""Ray for collectors and the replay service: the runtime, and the CPUs that its actors may take."""
