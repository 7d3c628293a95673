# Soft cross entropy in place of the KL divergence.
_base_ = '../corrmatch_unet_digit-scenes-60.py'
model = dict(losses=dict(soft=dict(kind='cross_entropy')))
