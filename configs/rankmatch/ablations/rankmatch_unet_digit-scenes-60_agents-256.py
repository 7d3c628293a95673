# 256 agents.
_base_ = '../rankmatch_unet_digit-scenes-60.py'
model = dict(heads=dict(rank=dict(num_agents=256)))
