# mmdet's runtime with this project's checkpoints, counted in iterations.
_base_ = 'mmdet::_base_/default_runtime.py'
custom_imports = dict(imports=['mmseg_semi'], allow_failed_imports=False)
log_processor = dict(by_epoch=False)
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(
        _delete_=True,
        type='mmseg.AtomicCheckpointHook',
        by_epoch=False,
        interval=1000,
        max_keep_ckpts=2,
    ),
)
custom_hooks = [dict(type='NumClassCheckHook')]
