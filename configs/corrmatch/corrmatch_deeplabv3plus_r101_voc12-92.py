# The paper's constants: 16 labeled and 16 unlabeled images a batch on 4 GPUs.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/voc12.py',
    '../_base_/models/deeplabv3plus_r101_voc12.py',
    '../_base_/schedules/sgd_voc12_80e.py',
    '../_base_/methods/corrmatch.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
custom_hooks = [*_base_.custom_hooks, dict(type='EMAThresholdHook')]
# CorrMatch has one strong view.
unlabeled_pipeline = _base_.unlabeled_pipeline
unlabeled_pipeline[-2]['num_views'] = 1
train_dataloader = dict(dataset=dict(unlabeled=dict(pipeline=unlabeled_pipeline)))
