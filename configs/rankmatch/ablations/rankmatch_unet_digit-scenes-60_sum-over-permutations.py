# Sum over the permutations, as the paper has it.
_base_ = '../rankmatch_unet_digit-scenes-60.py'
model = dict(heads=dict(rank=dict(reduction='sum')))
