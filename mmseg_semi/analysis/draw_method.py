"""Draw what RankMatch's agents or S4MC's refinement do on test images.

agents: image, truth, the chosen agents, and as many pixels drawn at random; a dot has the color of
the true class. Says how many of the classes of an image have an agent at all.
refinement: image, truth, the margin of the prediction before and after (dark: sure), and the label
where refining changed it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmseg.registry import DATASETS, MODELS
from torch import Tensor

from mmseg_semi.apis.runner_setup import check_data_paths
from mmseg_semi.files import write_file
from mmseg_semi.functional import confidence_score, select_agents
from mmseg_semi.models.heads import AgentRankHead
from mmseg_semi.models.segmentors import is_semi
from mmseg_semi.structures import SegOutputs
from mmseg_semi.utils.config import load_config
from mmseg_semi.utils.drawing import Entry, Tile, as_rgb, colors, legend, png_of, sheet
from mmseg_semi.utils.safe_checkpoints import refuse_incomplete


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('what', choices=('agents', 'refinement'))
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('out', help='picture to write, .png')
    parser.add_argument('--num', type=int, default=6, help='test images')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    if not args.out.endswith('.png'):
        parser.error(f'out must end in .png, got {args.out}')
    if args.num < 1:
        parser.error(f'--num must be at least 1, got {args.num}')
    return args


def heat(values: Tensor) -> np.ndarray:
    """Draw (H, W) in [0, 1] as RGB, bright where it is low."""
    gray = ((1 - values.clamp(0, 1)) * 255).round().byte().numpy()
    return cv2.applyColorMap(gray, cv2.COLORMAP_INFERNO)[..., ::-1]


def resized(labels: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Labels (H, W) at the height and width of an image, by the nearest pixel."""
    height, width = size[:2]
    return cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def dots(image: np.ndarray, index: Tensor, grid: tuple[int, int], fill: np.ndarray) -> np.ndarray:
    """Draw agents at the centers of their cells, filled with the colors (H, W, 3) there."""
    canvas = np.ascontiguousarray(image // 2)
    height, width = image.shape[:2]
    for pixel in index.tolist():
        y = int((pixel // grid[1] + 0.5) * height / grid[0])
        x = int((pixel % grid[1] + 0.5) * width / grid[1])
        cv2.circle(canvas, (x, y), max(1, height // 100), fill[y, x].tolist(), -1)
    return canvas


def classes_with_agent(index: Tensor, grid: tuple[int, int], truth: np.ndarray) -> tuple[int, int]:
    """Count the classes of the truth that have an agent, and all of them."""
    y = ((index // grid[1] + 0.5) * truth.shape[0] / grid[0]).long()
    x = ((index % grid[1] + 0.5) * truth.shape[1] / grid[1]).long()
    present = set(np.unique(truth).tolist()) - {255}
    return len(present & set(truth[y.numpy(), x.numpy()].tolist())), len(present)


def refuse_plain(cfg: Any) -> None:
    """Refuse a config that trains no ``SemiSegmentor``."""
    if not is_semi(cfg.model):
        raise SystemExit(
            f"the config's model is a {cfg.model.type}, not a 'SemiSegmentor': give a config of a "
            'method'
        )


def load_weights(model: Any, checkpoint: str) -> dict[str, Any]:
    """Load a checkpoint of a model, all of it, and return what the file holds."""
    refuse_incomplete(checkpoint, 'checkpoint')
    try:
        return load_checkpoint(model, checkpoint, map_location='cpu', strict=True)
    except Exception as error:  # whatever a file that is no checkpoint makes of the loader
        raise SystemExit(
            f'{checkpoint} is no checkpoint of this config: {type(error).__name__}: {error}'
        ) from error


def load_model(cfg: Any, checkpoint: str) -> Any:
    """Build the semi-supervised model with the checkpoint's weights."""
    refuse_plain(cfg)
    model = MODELS.build(cfg.model)
    load_weights(model, checkpoint)
    return model.eval()


class AgentTiles:
    """Pictures of agents, and how many classes they reach."""

    entries: tuple[Entry, ...] = ()

    def __init__(self, model: Any) -> None:
        heads = [head for head in model.heads.values() if isinstance(head, AgentRankHead)]
        if not heads:
            raise SystemExit(
                'model.heads has no AgentRankHead, so there are no agents to draw: give a config '
                'of configs/rankmatch, or one that adds the head'
            )
        self.head, self.counts = heads[0], np.zeros(3, int)

    def draw(
        self, outputs: SegOutputs, image: np.ndarray, truth: np.ndarray, table: np.ndarray
    ) -> list[Tile]:
        """Return the tiles of one image."""
        features = outputs.features[self.head.tap]
        grid = (features.shape[-2], features.shape[-1])
        chosen = self.head.choose(features)[0]
        drawn = select_agents(features, len(chosen), strategy='random')[0]
        found = [classes_with_agent(index, grid, truth) for index in (chosen, drawn)]
        self.counts += (found[0][0], found[1][0], found[0][1])
        titled = {'chosen agents': chosen, 'agents at random': drawn}
        return [
            Tile(title, dots(image, index, grid, table[truth])) for title, index in titled.items()
        ]

    def summary(self) -> str:
        """Return what was counted, in words."""
        chosen, drawn, all_ = self.counts
        return (
            f'of {all_} classes in these images, {chosen} have a chosen agent, {drawn} a random one'
        )


class RefinementTiles:
    """Pictures of the margin before and after refinement."""

    entries: tuple[Entry, ...] = (('not changed', (0, 0, 0)),)

    def __init__(self, model: Any) -> None:
        self.refiners = [one for one in model.refiners.values() if hasattr(one, 'refine')]
        if not self.refiners:
            raise SystemExit(
                'no refiner of model.refiners changes probabilities, so there is nothing to draw: '
                'give a config of configs/s4mc, or one that adds a NeighborhoodRefiner'
            )
        self.unsure, self.changed, self.pixels = np.zeros(2), 0, 0

    def draw(
        self, outputs: SegOutputs, image: np.ndarray, truth: np.ndarray, table: np.ndarray
    ) -> list[Tile]:
        """Return the tiles of one image."""
        height, width = truth.shape
        prob = outputs.logits[..., :height, :width].softmax(dim=1)
        refined = prob
        for refiner in self.refiners:
            refined = refiner.refine(refined)
        margins = [confidence_score(p)[0] for p in (prob, refined)]
        label, other = prob.argmax(1)[0].numpy(), refined.argmax(1)[0].numpy()
        moved = label != other
        self.unsure += [float((margin < 0.5).sum()) for margin in margins]
        self.changed, self.pixels = self.changed + int(moved.sum()), self.pixels + label.size
        return [
            Tile('margin before', heat(margins[0])),
            Tile('margin after', heat(margins[1])),
            Tile('changed labels', table[other] * moved[..., None].astype(np.uint8)),
        ]

    def summary(self) -> str:
        """Return what was counted, in words."""
        before, after = self.unsure / self.pixels
        changed = self.changed / self.pixels
        return f'margin under 0.5: {before:.2%}, refined {after:.2%}; labels changed: {changed:.3%}'


def main(argv: Sequence[str] | None = None) -> None:
    """Draw."""
    args = parse_args(argv)
    cfg = load_config(args.config)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    check_data_paths(cfg, ('test',))
    torch.manual_seed(args.seed)
    model = load_model(cfg, args.checkpoint)
    drawer = (AgentTiles if args.what == 'agents' else RefinementTiles)(model)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    table = colors(dataset.metainfo)
    rows, shown = [], []
    for i in range(min(args.num, len(dataset))):
        item = dataset[i]
        batch = dict(inputs=[item['inputs']], data_samples=[item['data_samples']])
        with torch.no_grad():
            images = model.data_preprocessor(batch, False)['inputs']
            outputs = model.run(images)
            image = as_rgb(item['inputs'].permute(1, 2, 0).numpy())
            truth = item['data_samples'].gt_sem_seg.data[0].numpy().astype(np.uint8)
            truth = resized(truth, image.shape)  # the test pipeline may resize images alone
            drawn = drawer.draw(outputs, image, truth, table)
            rows.append([Tile('image', image), Tile('truth', table[truth]), *drawn])
            shown.append(truth)
    picture = sheet(rows, [*legend(dataset.metainfo, *shown), *drawer.entries])
    write_file(args.out, png_of(picture))
    print(f'{args.out}: {drawer.summary()}')
