# U2PL (CVPR 2022) on CutMix-Seg: pixels of high entropy train nothing as pseudo-labels, 20 % at the
# start and none at the end, and serve as negatives of the classes that they are hardly of.
# L = L_s + lambda_u L_u + 0.1 L_c; L_u is the mean over the selected pixels, and lambda_u is the
# number of all pixels over that of the selected ones. Labeled and mixed images share a pass, as in
# the program (released/u2pl.py).
_base_ = './cutmix_seg.py'
method = dict(
    streams=dict(strong=dict(group='clean')),
    refiners=dict(
        select=dict(
            _delete_=True, type='QuantileThreshold', score='entropy', alpha=0.2, decay_by='epoch'
        ),
    ),
    losses=dict(strong=dict(denominator='selected', scale='inverse_share')),
    heads=dict(
        contrast=dict(
            type='ContrastHead',
            tap='penultimate',
            channels=256,
            alpha=0.2,
            decay_by='epoch',
            bank=dict(size=30000, first_size=50000),
            loss_weight=0.1,
        ),
    ),
)
