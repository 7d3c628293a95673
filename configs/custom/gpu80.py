# A GPU of 80 GB and some hours: on top of a config of own images, such as
# _base_ = ['unimatch/unimatch_deeplabv3plus_r50_custom.py', 'custom/gpu80.py']
# The batch is twice that of the learning rates: train with --auto-scale-lr.
scale = (2048, 512)  # width and height that images are fitted into
crop_size = (512, 512)
iterations = 40000
batch_size = 8
balance = True
workers = 16
