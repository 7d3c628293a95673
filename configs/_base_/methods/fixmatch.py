# FixMatch for segmentation: the student labels weak views for its own strong views.
# L = 1/2 (L_x + L_s) as in UniMatch's paper, threshold 0.95 (VOC; 0 on Cityscapes). CutMix as in
# UniMatch.
method = dict(
    type='SemiSegmentor',
    supervised_weight=0.5,
    refiners=dict(select=dict(type='ConfidenceThreshold', threshold=0.95)),
    mixer=dict(type='CutMix', prob=0.5, area=(0.02, 0.4), aspect=(0.3, 1 / 0.3), draw='rejection'),
    losses=dict(strong=dict(type='PseudoLabelCrossEntropy', stream='strong', loss_weight=0.5)),
)
