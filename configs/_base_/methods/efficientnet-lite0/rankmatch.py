# Agents are drawn from the decoder's fused maps, which stand for the output of the ASPP.
_base_ = '../rankmatch.py'
method = dict(heads=dict(rank=dict(tap='penultimate')))
