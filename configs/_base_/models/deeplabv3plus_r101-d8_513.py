# The same with crops of 513 pixels.
_base_ = './deeplabv3plus_r101-d8.py'
model = dict(data_preprocessor=dict(size=(513, 513)))
