# The strong view is the weak one, only mixed.
_base_ = '../cutmix_seg_unet_digit-scenes-60.py'
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=dict(transforms=None))))
