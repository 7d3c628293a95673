# UniMatch as released (CVPR 2023): the partners of CutMix are labeled in evaluation mode before the
# step, one partner for both strong views of an image.
_base_ = '../unimatch.py'
method = dict(
    streams=dict(partners=dict(images='weak', mode='eval')),
    mixer=dict(same_partner=True, partner_stream='partners'),
)
