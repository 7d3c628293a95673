# Figure 5d: 0.85.
_base_ = '../corrmatch_deeplabv3plus_r101_voc12-183.py'
model = dict(
    refiners=dict(
        select=dict(_delete_=True, type='ConfidenceThreshold', threshold=0.85),
        regions=None,
    ),
    heads=dict(correlation=None),
)
