# SGD, poly decay 0.9 every iteration, 30 passes over the unlabeled images, one learning rate for
# backbone and heads. It is for 4 GPUs (--auto-scale-lr scales it).
_base_ = './sgd_cityscapes_240e.py'
optim_wrapper = dict(optimizer=dict(lr=4e-3))
train_cfg = dict(max_epochs=30, val_interval=1)
