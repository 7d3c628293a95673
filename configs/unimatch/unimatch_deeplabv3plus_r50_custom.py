_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/custom.py',
    'mmseg::_base_/models/deeplabv3plus_r50-d8.py',
    '../_base_/schedules/sgd_20k.py',
    '../_base_/methods/unimatch.py',
]
model = dict(
    _delete_=True,
    # The papers train without an auxiliary head.
    segmentor=dict(
        _base_.model, auxiliary_head=None, decode_head=dict(_base_.model.decode_head, num_classes=2)
    ),
    **_base_.method,
)
