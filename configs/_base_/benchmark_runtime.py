# The papers' programs report the best validation: its checkpoint is kept beside the last one.
_base_ = './default_runtime.py'
default_hooks = dict(checkpoint=dict(save_best='mIoU'))
