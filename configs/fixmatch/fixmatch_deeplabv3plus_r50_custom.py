_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/custom.py',
    'mmseg::_base_/models/deeplabv3plus_r50-d8.py',
    '../_base_/schedules/sgd_20k.py',
    '../_base_/methods/fixmatch.py',
]
model = dict(
    _delete_=True,
    # The papers train without an auxiliary head.
    segmentor=dict(
        _base_.model, auxiliary_head=None, decode_head=dict(_base_.model.decode_head, num_classes=2)
    ),
    **_base_.method,
)
# FixMatch has one strong view.
unlabeled_pipeline = _base_.unlabeled_pipeline
unlabeled_pipeline[-2]['num_views'] = 1
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=unlabeled_pipeline)))
