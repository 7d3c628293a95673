# As in the paper: the student labels for itself.
_base_ = './unimatch_efficientnet-lite0_camvid-12.py'
model = dict(teacher=None)
