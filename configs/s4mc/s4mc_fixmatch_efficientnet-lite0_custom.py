_base_ = [
    '../_base_/settings/efficientnet-lite0_custom.py',
    '../_base_/methods/custom/s4mc_fixmatch.py',
]
model = dict(
    _delete_=True,
    segmentor=_base_.model,
    warmup_iters=2000,
    **_base_.method,
)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
