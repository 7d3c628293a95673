_base_ = '/work/main/configs/unimatch/unimatch_efficientnet-lite0_camvid-12.py'
model = dict(
    refiners=dict(
        select=dict(_delete_=True, type='EMAThreshold', update='per_class', warm_up=True),
    ),
)
