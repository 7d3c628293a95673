_base_ = [
    '../_base_/settings/nuclei_efficientnet-lite0.py',
    '../_base_/methods/efficientnet-lite0/fixmatch.py',
]
# The decoder starts from scratch: it must know the classes a little before it teaches itself.
model = dict(_delete_=True, segmentor=_base_.model, warmup_iters=200, **_base_.method)
