"""Choosing the pixels that a supervised loss trains on."""

from .mean_ohem_pixel_sampler import MeanOHEMPixelSampler

__all__ = ['MeanOHEMPixelSampler']
