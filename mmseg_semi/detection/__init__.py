"""Object detection beside segmentation: what a detector learns from, and what it says."""
