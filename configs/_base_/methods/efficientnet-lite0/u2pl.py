# A head and a bank as small as the network.
_base_ = '../u2pl.py'
bank = dict(size=4096, first_size=8192)
method = dict(heads=dict(contrast=dict(hidden_channels=64, channels=64, bank=bank)))
del bank
