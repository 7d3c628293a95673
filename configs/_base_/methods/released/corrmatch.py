# CorrMatch as released (CVPR 2024): CutMix as in UniMatch's program, the threshold moves before it
# selects, and all images of a rank share the sampled positions.
_base_ = '../corrmatch.py'
method = dict(
    streams=dict(partners=dict(images='weak', mode='eval')),
    mixer=dict(same_partner=True, partner_stream='partners'),
    heads=dict(correlation=dict(logits_from='image')),
    refiners=dict(select=dict(when='before'), regions=dict(strategy='random_shared')),
)
