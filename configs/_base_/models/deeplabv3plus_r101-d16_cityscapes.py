# The papers' DeepLabV3+ for Cityscapes: 19 classes, OHEM on the labeled images (the
# 200000 pixels of a rank's batch that are hardest, and all with a probability of at most 0.7),
# windows of the crop's size at two thirds of it, cut off at the image's edge, softmax summed.
_base_ = './deeplabv3plus_r101-d16.py'
model = dict(
    type='SlidingEncoderDecoder',
    decode_head=dict(
        num_classes=19, sampler=dict(type='MeanOHEMPixelSampler', thresh=0.7, min_kept=200000)
    ),
    test_cfg=dict(
        mode='slide',
        crop_size=(801, 801),
        stride=(534, 534),
        window_average='prob',
        window_border='cut',
    ),
)
