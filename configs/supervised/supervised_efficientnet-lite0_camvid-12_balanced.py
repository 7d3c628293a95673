# Classes balanced on the labeled images, as balance=True does for own images: half of the crops
# around a pixel of a class drawn at random, and weights of the classes in the loss.
_base_ = './supervised_efficientnet-lite0_camvid-12.py'
train_dataloader = dict(
    dataset=dict(
        geometry=dict(
            crop=dict(_delete_=True, type='ClassBalancedCrop', crop_size=(128, 128), prob=0.5)
        )
    )
)
custom_hooks = [*_base_.custom_hooks, dict(type='ClassWeightHook')]
