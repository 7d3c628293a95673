_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/digit_scenes.py',
    '../_base_/models/unet_digit_scenes.py',
    '../_base_/schedules/digit_scenes.py',
    '../_base_/methods/u2pl.py',
]
method = _base_.method
# The classifier's input has 16 channels.
method.heads.contrast.update(
    hidden_channels=16, channels=64, bank=dict(size=2048, first_size=2048, num_push=128)
)
model = dict(
    _delete_=True,
    segmentor=_base_.model,
    # The network starts from scratch: it must know the digits a little before it teaches itself.
    warmup_iters=400,
    channels_last=True,
    **method,
)
