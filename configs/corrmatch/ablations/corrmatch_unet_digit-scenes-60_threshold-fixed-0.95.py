# UniMatch's fixed threshold.
_base_ = '../corrmatch_unet_digit-scenes-60.py'
select = dict(_delete_=True, type='ConfidenceThreshold', threshold=0.95)
model = dict(refiners=dict(select=select))
