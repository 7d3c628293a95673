# The labeled images alone at crop 513, as supervised_voc12.py has it.
_base_ = './supervised_voc12.py'
train_dataloader = dict(dataset=dict(geometry=dict(crop=dict(crop_size=(513, 513)))))
