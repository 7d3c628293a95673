_base_ = ['../_base_/settings/dinov2-s_custom.py', '../_base_/methods/custom/unimatch_v2.py']
method = _base_.method
method.streams.strong.perturbation.shared = True
model = dict(_delete_=True, segmentor=_base_.model, warmup_iters=2000, **method)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
