"""Object detection beside segmentation: what a detector learns from, and what it says."""

from .load_detections import LoadDetections

__all__ = ['LoadDetections']
