# Without the soft loss.
_base_ = '../corrmatch_unet_digit-scenes-60.py'
model = dict(losses=dict(soft=None))
