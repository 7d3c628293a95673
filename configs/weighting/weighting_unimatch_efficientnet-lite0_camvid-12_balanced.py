# Classes balanced on the labeled images, as balance=True does for own images: half of the crops
# around a pixel of a class drawn at random, and weights of the classes in the loss.
_base_ = './weighting_unimatch_efficientnet-lite0_camvid-12.py'
crop = dict(type='ClassBalancedCrop', crop_size=(128, 128), prob=0.5)
geometry = dict(_base_.train_dataloader.dataset.geometry, crop=crop)
train_dataloader = dict(dataset=dict(labeled=dict(geometry=geometry)))
custom_hooks = [*_base_.custom_hooks, dict(type='ClassWeightHook')]
