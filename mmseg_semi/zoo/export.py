"""Write the network of a checkpoint as an ONNX file: ``mmseg-semi export --onnx``."""

from __future__ import annotations

import argparse
import copy
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from torch import Tensor, nn

from mmseg_semi.apis.predicting import Predictor
from mmseg_semi.apis.saved_model import SavedModel, load_saved
from mmseg_semi.apis.start import ignore_library_warnings
from mmseg_semi.errors import DataError
from mmseg_semi.files import write_file
from mmseg_semi.utils.config import parse_tool
from mmseg_semi.zoo.onnx_graph import Graph, made_exportable
from mmseg_semi_cli import runs

INPUT, OUTPUT = 'images', 'logits'
OPSET = 17
#: Of a logit, where none is larger than 1; else as a part of the largest one.
MOST_DIFFERENCE = 1e-4
_ODD = ((129, 161), (200, 97), (64, 256))
_EVEN = ((128, 160), (192, 96), (64, 256))  # for networks that refuse others


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = runs.export()
    args = parse_tool(parser, argv)
    if not args.out.endswith('.onnx'):
        parser.error(f'--out must end in .onnx, got {args.out}')
    return args


def packages() -> tuple[Any, Any]:
    """``onnx`` and ``onnxruntime``.

    Raises:
        ModuleNotFoundError: Says how to install them.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise ModuleNotFoundError(
            f"--onnx needs onnx and onnxruntime ({error}): pip install 'mmseg_semi[onnx]'"
        ) from error
    return onnx, onnxruntime


class Sizes:
    """Images of several sizes and the logits that the model gives for them.

    Args:
        saved: Model and config, on the CPU.
        size: Height and width of the only size, None for several.
    """

    def __init__(self, saved: SavedModel, size: Sequence[int] | None) -> None:
        predictor = Predictor(saved)
        self.channels = channels_of(predictor.network)
        for sizes in ([tuple(size)],) if size else (_ODD, _EVEN):
            images = [self._image(saved, *one) for one in sizes]
            try:
                self.logits = [predictor.logits(one) for one in images]
            except AssertionError as error:  # of mmseg's UNet, about sizes
                problem = error
                continue
            # Loaded as BGR; the graph takes RGB.
            self.images = [one.flip(0) if self.channels == 3 else one for one in images]
            return
        raise DataError(f'the network takes no images of {sizes}: {problem}; give another --size')

    def _image(self, saved: SavedModel, height: int, width: int) -> Tensor:
        """Noise (C, H, W) of the kind of numbers that the model takes."""
        random = torch.Generator().manual_seed(height)
        shape = (self.channels, height, width)
        preprocessor = saved.model.data_preprocessor
        if getattr(preprocessor, 'dtype', '') in ('', 'uint8'):
            return torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
        noise = torch.randn(shape, generator=random)
        return noise * preprocessor.std.cpu() + preprocessor.mean.cpu()


def channels_of(network: nn.Module) -> int:
    """Channels of the images that a network takes."""
    backbone: Any = network.backbone
    return next(one.in_channels for one in backbone.modules() if isinstance(one, nn.Conv2d))


def metadata(saved: SavedModel, channels: int) -> dict[str, str]:
    """What is to be known of the file, as texts (JSON)."""
    resize = [one for one in saved.pipeline.transforms if type(one).__name__ == 'Resize']
    scale = getattr(resize[0], 'scale', None) if resize else None
    content = dict(
        classes=saved.classes,
        palette=[list(map(int, color)) for color in saved.meta.get('palette') or []],
        channels='RGB' if channels == 3 else f'{channels}, as in the files',
        scale=list(scale) if scale else None,
        keep_ratio=bool(resize and resize[0].keep_ratio),
        reduce_zero_label=saved.reduced,
    )
    return {name: json.dumps(value) for name, value in content.items()}


class OneImageOnly(DataError):
    """A graph that takes one image at a time."""


def export(
    network: nn.Module, preprocessor: Any, example: Tensor, fixed: bool, batch: bool = True
) -> Any:
    """The ONNX model of a network.

    Args:
        network: The segmentor.
        preprocessor: Its data preprocessor.
        example: An image (C, H, W).
        fixed: Whether the graph is for its size alone.
        batch: Whether it may have several images.
    """
    onnx, _ = packages()
    graph = Graph(made_exportable(copy.deepcopy(network)), preprocessor).eval()
    names = ('batch' if batch else '', *(() if fixed else ('', 'height', 'width')))
    axes = {place: name for place, name in enumerate(names) if name}
    file: Any = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')  # that the trace may depend on the size, which is tried
        torch.onnx.export(
            graph,
            (example[None].float(),),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: axes, OUTPUT: axes},
        )
    return onnx.load_from_string(file.getvalue())


def check(content: bytes, sizes: Sizes, fixed: bool = False, batch: bool = True) -> float:
    """Run a file, and compare.

    Args:
        content: Of the file.
        sizes: Images and logits.
        fixed: Whether the file is for one size.
        batch: Whether it takes several images, which two equal ones try.

    Returns:
        The largest difference of a logit.

    Raises:
        DataError: It is larger than ``MOST_DIFFERENCE`` allows, or the file does not run;
            ``OneImageOnly``, where it runs with one image and not with two.
    """
    _, runtime = packages()
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what it finds is said below
    most = 0.0
    remedy = '' if fixed else ' Give --size HEIGHT WIDTH for a file of one size.'
    session = runtime.InferenceSession(content, options, providers=['CPUExecutionProvider'])
    for image, wanted in zip(sizes.images, sizes.logits):
        place = f'images of {image.shape[1]} x {image.shape[2]} pixels'
        try:
            (found,) = session.run(None, {INPUT: image[None].float().numpy()})
        except Exception as error:  # of the runtime's own kinds
            text = ' '.join(str(error).split())
            raise DataError(f'the graph does not run on {place}: {text}.{remedy}') from error
        same = found.shape == (1, *wanted.shape)
        difference = float(np.abs(found[0] - wanted.numpy()).max()) if same else float('inf')
        limit = MOST_DIFFERENCE * max(float(wanted.abs().max()), 1)
        if not difference <= limit:
            raise DataError(
                f'on {place} a logit of the graph differs by {difference:.2g} from that of the '
                f'model, more than {limit:.2g}, so no file is written.{remedy}'
            )
        most = max(most, difference)
    if batch:
        two = sizes.images[0][None].float().numpy().repeat(2, axis=0)
        try:
            (found,) = session.run(None, {INPUT: two})
            same = found.shape == (2, *sizes.logits[0].shape)
            difference = (
                float(np.abs(found - sizes.logits[0].numpy()).max()) if same else float('inf')
            )
        except Exception:  # of the runtime's own kinds
            difference = float('inf')
        if not difference <= MOST_DIFFERENCE * max(float(sizes.logits[0].abs().max()), 1):
            raise OneImageOnly(
                f'the graph does not run on two images at once: {INPUT} must be one image'
            )
    return most


def made(
    network: nn.Module,
    preprocessor: Any,
    sizes: Sizes,
    about: Mapping[str, str],
    fixed: bool,
    batch: bool,
) -> tuple[bytes, float]:
    """Content of the file of a network, and by how much its logits differ; see :func:`check`."""
    model = export(network, preprocessor, sizes.images[0], fixed, batch)
    for name, value in about.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, value
    content = model.SerializeToString()
    return content, check(content, sizes, fixed, batch)


def main(argv: Sequence[str] | None = None) -> None:
    """Export."""
    args = parse_args(argv)
    ignore_library_warnings()
    packages()
    saved = load_saved(args.checkpoint, args.config, args.cfg_options, args.predict_with, 'cpu')
    network: Any = Predictor(saved).network
    if network.test_cfg.get('mode') == 'slide':
        print("the graph takes whole images: test_cfg.mode='slide' is left to whoever runs it")
        network.test_cfg = ConfigDict(mode='whole')
    if getattr(saved.model, 'refine_at_test', False):
        print('the graph gives the logits of the network: model.test_cfg.refine is left out')
    sizes = Sizes(saved, args.size)
    preprocessor = saved.model.data_preprocessor
    about, fixed = metadata(saved, sizes.channels), args.size is not None
    try:
        content, most = made(network, preprocessor, sizes, about, fixed, batch=True)
    except OneImageOnly:
        content, most = made(network, preprocessor, sizes, about, fixed, batch=False)
        print('the graph takes one image at a time: that of this network is for a batch of 1')
    write_file(Path(args.out), content)
    tried = ', '.join(f'{one.shape[1]} x {one.shape[2]}' for one in sizes.images)
    print(
        f'wrote {args.out} ({len(content) / 2**20:.1f} MiB); images of {tried}: logits differ by '
        f'{most:.1g} at most'
    )
