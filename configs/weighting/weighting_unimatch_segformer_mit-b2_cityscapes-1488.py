_base_ = '../_base_/benchmarks/weighting_unimatch_segformer_cityscapes.py'
split = 'semi/1488'
labeled = dict(ann_file=f'{split}/labeled.txt')
boxes = f'{_base_.data_root}/detection/1488/unlabeled'
pipeline = _base_.unlabeled_pipeline
pipeline[2].update(results=f'{boxes}.bbox.json', images=f'{boxes}.json')
unlabeled = dict(ann_file=f'{split}/unlabeled.txt', pipeline=pipeline)
train_dataloader = dict(dataset=dict(labeled=labeled, unlabeled=unlabeled))
