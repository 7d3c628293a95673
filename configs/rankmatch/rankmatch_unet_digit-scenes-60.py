_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/digit_scenes.py',
    '../_base_/models/unet_digit_scenes.py',
    '../_base_/schedules/digit_scenes.py',
    '../_base_/methods/rankmatch.py',
]
method = _base_.method
# The UNet has no ASPP: its map at quarter resolution (16x16, 32 channels) takes that place. The
# sum over the permutations flattens the features of a network that starts from scratch.
method.heads.rank.update(tap='backbone.decoder.1', reduction='mean')
model = dict(
    _delete_=True,
    segmentor=_base_.model,
    # The network starts from scratch: it must know the digits a little before it teaches itself.
    warmup_iters=400,
    channels_last=True,
    **method,
)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
