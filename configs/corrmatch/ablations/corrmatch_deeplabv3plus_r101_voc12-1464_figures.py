# Figures 5b-c and 7: with propagation.
_base_ = '../corrmatch_deeplabv3plus_r101_voc12-1464.py'
default_hooks = dict(
    pseudo_labels=dict(
        type='PseudoLabelStatsHook',
        audit_root='{{$VOC12_ROOT:data/VOCdevkit/VOC2012}}/SegmentationClassAug',
    ),
)
