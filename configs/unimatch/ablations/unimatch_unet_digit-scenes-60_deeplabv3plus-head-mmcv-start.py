# The same decoder with mmcv's start.
_base_ = './unimatch_unet_digit-scenes-60_deeplabv3plus-head.py'
model = dict(segmentor=dict(decode_head=dict(initialization='mmcv')))
