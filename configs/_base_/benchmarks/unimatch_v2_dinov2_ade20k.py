# UniMatch V2 on ADE20K, crop 518, DINOv2: all maps drop the same channels.
_base_ = ['../settings/ade20k_518-dinov2.py', '../methods/unimatch_v2.py']
method = _base_.method
method.streams.strong.perturbation.shared = True
model = dict(_delete_=True, segmentor=_base_.model, **method)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
