# An EMA teacher labels, as in unimatch.py.
# Correlations between the fused maps of the decoder (stride 4): a crop has 4x4 places at stride 32.
_base_ = '../corrmatch.py'
method = dict(
    teacher=dict(type='EMATeacher', momentum=0.99),
    heads=dict(correlation=dict(tap='penultimate', in_channels=64, hidden_channels=64)),
)
