# A GPU of 24 GB and some hours: on top of a config of own images, such as
# _base_ = ['unimatch/unimatch_deeplabv3plus_r50_custom.py', 'custom/gpu24.py']
scale = (2048, 512)  # width and height that images are fitted into
crop_size = (384, 384)
iterations = 40000
batch_size = 4
balance = True
workers = 8
