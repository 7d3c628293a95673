# Table 10: cosine similarity.
_base_ = '../corrmatch_deeplabv3plus_r101_voc12-1464.py'
model = dict(losses=dict(soft=dict(kind='cosine')))
