# Weighting Pseudo-Labels (ECCV 2024) on UniMatch: L = L_s + alpha L_u with alpha = 0.4, which the
# paper chose on UniMatch alone, and L_u = 1/4 L_s1 + 1/4 L_s2 + 1/2 L_fp, each pixel with its
# weight s/k. A config on it adds the boxes to the unlabeled part.
_base_ = './unimatch.py'
method = dict(
    supervised_weight=1.0,
    refiners=dict(
        agreement=dict(type='DetectionAgreement', min_confidence=0.95),
        weight=dict(type='RankStatisticsWeight', k=5, bank=dict(size=256, min_confidence=0.95)),
    ),
    losses=dict(strong=dict(loss_weight=0.2), perturbed=dict(loss_weight=0.2)),
)
