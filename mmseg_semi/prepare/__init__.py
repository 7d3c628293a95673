"""Data sets made ready for training: digit scenes, masks of the benchmarks, splits."""
