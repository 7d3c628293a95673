# VOC with crops of 513 pixels.
_base_ = './voc12.py'
crop_size = (513, 513)
labeled_pipeline = _base_.labeled_pipeline
labeled_pipeline[4]['crop_size'] = crop_size
unlabeled_pipeline = _base_.unlabeled_pipeline
unlabeled_pipeline[3]['crop_size'] = crop_size
train_dataloader = dict(
    dataset=dict(
        labeled=dict(pipeline=labeled_pipeline), unlabeled=dict(pipeline=unlabeled_pipeline)
    )
)
