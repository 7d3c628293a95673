_base_ = [
    '../_base_/default_runtime.py',
    '../_base_/datasets/digit_scenes.py',
    '../_base_/models/unet_digit_scenes.py',
    '../_base_/schedules/digit_scenes.py',
    '../_base_/methods/ael.py',
]
# A digit has some hundred of the 4096 pixels.
_base_.method.mixer.update(min_component=0.005, min_share=0.005)
# At a tenth of its size nobody reads a digit.
_base_.method.labeled_mixer.scale = None
model = dict(
    _delete_=True,
    segmentor=_base_.model,
    # The network starts from scratch: it must know the digits a little before it teaches itself.
    warmup_iters=400,
    channels_last=True,
    **_base_.method,
)
