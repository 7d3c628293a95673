# FixMatch as UniMatch's authors released it (CVPR 2023): the partners of CutMix are labeled in
# evaluation mode before the step, one partner an image.
_base_ = '../fixmatch.py'
method = dict(
    streams=dict(partners=dict(images='weak', mode='eval')),
    mixer=dict(same_partner=True, partner_stream='partners'),
)
