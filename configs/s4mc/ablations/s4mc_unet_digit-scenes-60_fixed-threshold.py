# The refinement alone, with a fixed threshold on the largest refined score.
_base_ = '../s4mc_unet_digit-scenes-60.py'
select = dict(_delete_=True, type='ConfidenceThreshold', threshold=0.95)
model = dict(refiners=dict(select=select))
