"""asv benchmarks of really; also run once each by `pytest bench/`."""
