"""The papers' tables: their configs, runs and checkpoints."""
