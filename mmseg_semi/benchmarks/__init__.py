"""What the benchmarks of ``tools/benchmarks`` share."""
