"""Test a checkpoint."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from mmengine.config import Config

from mmseg_semi.apis.runner_setup import (
    add_checks,
    check_data_paths,
    explaining_built,
    finish_distributed,
    set_work_dir,
    setup_distributed,
    write_metrics_once,
)
from mmseg_semi.apis.saved_model import (
    set_predictor,
    tested_dataset,
    tested_meta,
    without_masks,
)
from mmseg_semi.apis.start import StartRunner, end_logs
from mmseg_semi.datasets.image_files import IMG_SUFFIXES
from mmseg_semi.detection.runs import check_checkpoint_classes, complete_results
from mmseg_semi.engine.hooks.prediction_writer_hook import data_folders
from mmseg_semi.engine.workers import end_workers, explaining, prepare_workers
from mmseg_semi.files import check_there
from mmseg_semi.models.segmentors import is_semi
from mmseg_semi.utils.config import is_detector, load_config, parse_tool
from mmseg_semi.utils.config_settings import check_together
from mmseg_semi.utils.safe_checkpoints import refuse_incomplete
from mmseg_semi.utils.work_dirs import leaving_nothing
from mmseg_semi_cli import runs


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    args = parse_tool(runs.test(), argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def choose_predictor(cfg: Config, predictor: str) -> None:
    """Let student, teacher or both predict; with both, every IoU metric gets a teacher's one."""
    set_predictor(cfg, predictor)
    if not is_semi(cfg.model):
        return
    evaluators = cfg.test_evaluator
    evaluators = list(evaluators) if isinstance(evaluators, (list, tuple)) else [evaluators]
    kinds = [evaluator['type'] for evaluator in evaluators]
    if predictor == 'both' and 'TeacherIoUMetric' not in kinds:
        evaluators += [
            {**evaluator, 'type': 'TeacherIoUMetric', 'prefix': 'teacher'}
            for evaluator in evaluators
            if evaluator['type'] == 'IoUMetric'
        ]
        cfg.test_evaluator = evaluators


def write_predictions(
    cfg: Config, out: str | None, show_dir: str | None, folders: list[str]
) -> None:
    """Let a hook write label maps and pictures, and replace no file of the data's folders."""
    hook = dict(type='PredictionWriterHook', out_dir=out, show_dir=show_dir, data_folders=folders)
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]


def draw_boxes(cfg: Config, folder: str) -> None:
    """Let the visualization hook of mmdet write pictures."""
    hook = cfg.default_hooks.get('visualization')
    if hook is None:
        raise SystemExit(
            "--show-dir needs default_hooks.visualization=dict(type='DetVisualizationHook') in the "
            'config'
        )
    hook['draw'] = True
    hook['test_out_dir'] = os.path.abspath(folder)  # a relative one goes below the work folder


def check_images_option(cfg: Config, args: argparse.Namespace) -> None:
    """Refuse ``--images`` where it would write nothing."""
    if is_detector(cfg):
        raise SystemExit(
            '--images is for segmentors; a detector reads what its COCO file lists: set '
            'test_dataloader.dataset.ann_file'
        )
    if not (args.out or args.show_dir):
        raise SystemExit('--images needs --out DIR for label maps or --show-dir DIR for pictures')


def predict_images(cfg: Config, folder: str) -> None:
    """Test on the images of a folder, which have no masks; nothing is evaluated.

    Raises:
        FileNotFoundError: There is no such folder.
    """
    check_there(folder, 'Name the folder of the images.', '--images', 'folder')
    names = (name.lower() for _, _, several in os.walk(folder) for name in several)
    if not any(name.endswith(IMG_SUFFIXES) for name in names):
        raise SystemExit(
            f'--images {folder}: no image is in it, name another folder (suffixes looked for: '
            f'{", ".join(IMG_SUFFIXES)})'
        )
    cfg.test_dataloader.dataset = dict(
        type='ImageFolder',
        data_prefix=dict(img_path=os.path.abspath(folder)),
        metainfo=tested_meta(cfg),
        pipeline=without_masks(tested_dataset(cfg).pipeline),
    )
    if 'tta_pipeline' in cfg:
        cfg.tta_pipeline = without_masks(cfg.tta_pipeline)
    cfg.test_evaluator = []


def use_tta(cfg: Config) -> None:
    """Wrap the model for test-time augmentation."""
    if 'tta_model' not in cfg or 'tta_pipeline' not in cfg:
        raise SystemExit('--tta needs tta_model and tta_pipeline in the config')
    if (cfg.model.get('test_cfg') or {}).get('predict_with') == 'both':
        raise SystemExit('--tta predicts with one network: use --predict-with student or teacher')
    if (cfg.model.get('test_cfg') or {}).get('refine'):
        raise SystemExit(
            '--tta averages logits and would leave the refinement out: set '
            'model.test_cfg.refine=False, or go without --tta'
        )
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.tta_model.module = cfg.model
    cfg.model = cfg.tta_model


def main(argv: Sequence[str] | None = None) -> None:
    """Test."""
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options, unread=True)
    set_work_dir(cfg, args.work_dir, args.config)
    pictures = [None] if is_detector(cfg) else [args.out, args.show_dir]
    with leaving_nothing(cfg.work_dir, *pictures, written=end_logs) as begin:
        test(cfg, args, begin)


def test(cfg: Config, args: argparse.Namespace, begin: Callable[[], None]) -> None:
    """Test in a work folder.

    Args:
        cfg: The config.
        args: The command line.
        begin: To be called before the first image.
    """
    refuse_incomplete(args.checkpoint, 'checkpoint')
    folders = list(data_folders(cfg.to_dict()))
    if args.images:
        check_images_option(cfg, args)
        predict_images(cfg, args.images)
    try:
        check_data_paths(cfg, ('test',))
    except FileNotFoundError as error:
        if 'seg_map_path' not in str(error):
            raise
        raise FileNotFoundError(
            f'{error} To predict images that have no masks, give --images DIR.'
        ) from error
    if is_detector(cfg):
        check_checkpoint_classes(cfg, args.checkpoint)
    add_checks(cfg)
    cfg.launcher = args.launcher
    setup_distributed(cfg, args.launcher)
    cfg.load_from = args.checkpoint
    if args.predict_with:
        choose_predictor(cfg, args.predict_with)
    if args.tta:
        use_tta(cfg)
    if is_detector(cfg):
        if args.show_dir:
            draw_boxes(cfg, args.show_dir)
    elif args.out or args.show_dir:
        write_predictions(cfg, args.out, args.show_dir, folders)
    check_together(cfg)
    whole = complete_results(cfg, args.out) if is_detector(cfg) else nullcontext()
    with whole, explaining_built(cfg):
        runner = StartRunner.from_cfg(cfg)
        runner.begin = begin
        write_metrics_once(runner)
        prepare_workers(runner.test_loop.dataloader)
        with explaining('test_dataloader'):
            runner.test()
        end_workers(runner.test_loop.dataloader)
    finish_distributed()
