# A CPU and ten minutes: on top of a config of own images, such as
# _base_ = ['unimatch/unimatch_efficientnet-lite0_custom.py', 'custom/laptop.py']
scale = (512, 256)  # width and height that images are fitted into
crop_size = (128, 128)
iterations = 600
start = 0.5  # steps are few: half of them teach the decoder its classes
balance = True
workers = 0  # two cores have enough to do
