# DeepLabV3+ on ResNet-101 for VOC with crops of 513.
_base_ = './deeplabv3plus_r101_voc12.py'
model = dict(data_preprocessor=dict(size=(513, 513)))
