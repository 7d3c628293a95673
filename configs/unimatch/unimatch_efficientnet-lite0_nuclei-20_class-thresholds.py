# A threshold for each class follows how sure the network is of it, as in the configs for own
# images.
_base_ = './unimatch_efficientnet-lite0_nuclei-20.py'
model = dict(
    refiners=dict(select=dict(_delete_=True, type='EMAThreshold', update='per_class', warm_up=True))
)
