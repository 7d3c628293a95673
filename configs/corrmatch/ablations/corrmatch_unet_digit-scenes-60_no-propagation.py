# Neither propagation: hard and soft losses with the EMA threshold.
_base_ = '../corrmatch_unet_digit-scenes-60.py'
model = dict(refiners=dict(regions=None), heads=dict(correlation=None))
