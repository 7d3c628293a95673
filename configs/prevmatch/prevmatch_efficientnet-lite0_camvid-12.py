_base_ = [
    '../_base_/settings/camvid_efficientnet-lite0.py',
    '../_base_/methods/efficientnet-lite0/prevmatch.py',
]
# The decoder starts from scratch: it must know the classes a little before it teaches itself.
model = dict(_delete_=True, segmentor=_base_.model, warmup_iters=200, **_base_.method)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
