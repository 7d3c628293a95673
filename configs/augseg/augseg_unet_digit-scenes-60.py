_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/digit_scenes.py',
    '../_base_/models/unet_digit_scenes.py',
    '../_base_/schedules/digit_scenes.py',
    '../_base_/methods/augseg.py',
]
method = _base_.method
# With AugSeg's 0.999 the teacher would be a thousand iterations old, half of this run.
method.teacher.momentum = 0.99
model = dict(
    _delete_=True,
    segmentor=_base_.model,
    # The network starts from scratch: it must know the digits a little before it teaches itself.
    warmup_iters=400,
    channels_last=True,
    **method,
)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
