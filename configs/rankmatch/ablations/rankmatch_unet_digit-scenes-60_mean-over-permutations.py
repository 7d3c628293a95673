# Mean over the permutations, as the authors' program has it.
_base_ = '../rankmatch_unet_digit-scenes-60.py'
model = dict(heads=dict(rank=dict(reduction='mean')))
