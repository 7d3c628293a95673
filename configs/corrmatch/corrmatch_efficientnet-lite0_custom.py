_base_ = [
    '../_base_/settings/efficientnet-lite0_custom.py',
    '../_base_/methods/custom/corrmatch.py',
]
# Correlations between the fused maps of the decoder (stride 4): a crop of 128 has 4x4 places at
# stride 32.
_base_.method.heads.correlation.update(tap='penultimate', in_channels=64, hidden_channels=64)
model = dict(
    _delete_=True,
    segmentor=_base_.model,
    warmup_iters=2000,
    **_base_.method,
)
train_dataloader = dict(dataset=dict(unlabeled=dict(strong=_base_.strong)))
