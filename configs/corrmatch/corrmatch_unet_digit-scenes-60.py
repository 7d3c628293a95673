_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/digit_scenes.py',
    '../_base_/models/unet_digit_scenes.py',
    '../_base_/schedules/digit_scenes.py',
    '../_base_/methods/corrmatch.py',
]
method = _base_.method
# The backbone is a UNet: its map at quarter resolution (16x16) stands for an encoder's last map,
# and the head is as small as the network.
method.heads.correlation.update(tap='backbone.decoder.1', in_channels=32, hidden_channels=64)
model = dict(
    _delete_=True,
    segmentor=_base_.model,
    # The network starts from scratch: it must know the digits a little before it teaches itself.
    warmup_iters=400,
    channels_last=True,
    **method,
)
