# S4MC on FixMatch, the released program without its errors; ../s4mc_fixmatch.py is the paper, and
# docs/methods/s4mc.md lists what differs. L = (L_x + L_s1 / 2 + L_s2 / 2) / 2, the student labels.
strong = dict(num_views=2)
method = dict(
    type='SemiSegmentor',
    supervised_weight=0.5,
    streams=dict(
        # Labeled and weak images each have a pass, decoded together with dropped features that
        # train nothing themselves; the partners of CutMix are labeled in evaluation mode before.
        labeled=dict(group='labeled'),
        labeled_perturbed=dict(
            features='labeled', perturbation=dict(type='FeatureDropout', prob=0.5), group='labeled'
        ),
        weak=dict(group='weak'),
        weak_perturbed=dict(
            features='weak', perturbation=dict(type='FeatureDropout', prob=0.5), group='weak'
        ),
        partners=dict(images='weak', mode='eval'),
        strong=dict(views=2),
    ),
    mixer=dict(
        type='CutMix',
        prob=0.5,
        area=(0.02, 0.4),
        aspect=(0.3, 1 / 0.3),
        draw='rejection',
        same_partner=True,
        partner_stream='partners',
        refine_partners=False,
    ),
    refiners=dict(
        # Only the map of the largest probability is refined; labels stay.
        context=dict(
            type='NeighborhoodRefiner',
            window=3,
            neighbors=1,
            criterion='max',
            connectivity=4,
            beta=0.6065306597126334,  # exp(-1/2)
            on='confidence',
            use_padding=True,
        ),
        # 75 % of the pixels are kept at the start, 85 % at the end, by the first view's quantile.
        select=dict(
            type='QuantileThreshold',
            score='max',
            alpha=0.25,
            final=0.15,
            decay_by='epoch',
            of='refined_mixed',
            inclusive=True,
            use_padding=True,
        ),
    ),
    losses=dict(strong=dict(type='PseudoLabelCrossEntropy', stream='strong', loss_weight=0.5)),
)
