# S4MC (TMLR 2024) on CutMix-Seg: neighbors refine the teacher's probabilities; 40 % of the pixels
# are left out at the start, none at the end; the loss is the mean over the selected pixels.
# The paper does not say how the student's passes are grouped: labeled and mixed images share one,
# as in the program (released/s4mc.py).
_base_ = './cutmix_seg.py'
method = dict(
    streams=dict(strong=dict(group='clean')),
    refiners=dict(
        context=dict(type='NeighborhoodRefiner', window=3, neighbors=1, criterion='max'),
        select=dict(_delete_=True, type='QuantileThreshold', score='margin', alpha=0.4),
    ),
    losses=dict(strong=dict(denominator='selected')),
)
