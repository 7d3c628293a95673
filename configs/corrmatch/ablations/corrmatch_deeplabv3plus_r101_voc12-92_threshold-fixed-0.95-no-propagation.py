# Table 5: fixed + hard + soft.
_base_ = '../corrmatch_deeplabv3plus_r101_voc12-92.py'
model = dict(
    refiners=dict(
        select=dict(_delete_=True, type='ConfidenceThreshold', threshold=0.95),
        regions=None,
    ),
    heads=dict(correlation=None),
)
