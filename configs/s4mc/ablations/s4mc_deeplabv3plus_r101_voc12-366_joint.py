# Appendix C: the larger one of independent and empirical.
_base_ = '../s4mc_deeplabv3plus_r101_voc12-366.py'
model = dict(
    refiners=dict(
        context=dict(
            joint='{{$VOC12_ROOT:data/VOCdevkit/VOC2012}}/neighbor_agreement.json',
            joint_key='overall',
        ),
    ),
)
