_base_ = './faster-rcnn_r50_fpn_cityscapes.py'
folder = 'detection/100/'
train_dataloader = dict(dataset=dict(ann_file=f'{folder}labeled.json'))
test_dataloader = dict(dataset=dict(ann_file=f'{folder}unlabeled.json'))
boxes = f'{_base_.data_root}{folder}unlabeled'
test_evaluator = dict(ann_file=f'{boxes}.json', outfile_prefix=boxes)
