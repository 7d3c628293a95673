# Fixed threshold at the initial value of the EMA.
_base_ = '../corrmatch_unet_digit-scenes-60.py'
select = dict(_delete_=True, type='ConfidenceThreshold', threshold=0.85)
model = dict(refiners=dict(select=select))
