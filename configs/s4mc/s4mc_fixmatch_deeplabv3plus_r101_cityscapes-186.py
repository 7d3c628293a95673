# S4MC on FixMatch: 2 labeled and 2 unlabeled images a batch on one GPU, as S4MC has it.
_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/cityscapes_769.py',
    '../_base_/models/deeplabv3plus_r101_cityscapes_769.py',
    '../_base_/schedules/sgd_cityscapes_240e.py',
    '../_base_/methods/s4mc_fixmatch.py',
]
model = dict(_delete_=True, segmentor=_base_.model, **_base_.method)
optim_wrapper = dict(optimizer=dict(lr=0.01, weight_decay=5e-4))
auto_scale_lr = dict(base_batch_size=4)
# One strong view.
unlabeled_pipeline = _base_.unlabeled_pipeline
unlabeled_pipeline[-2]['num_views'] = 1
train_dataloader = dict(batch_size=4, dataset=dict(unlabeled=dict(pipeline=unlabeled_pipeline)))
