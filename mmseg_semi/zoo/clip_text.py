"""Write the embeddings of the names of classes, by CLIP's text transformer.

NAMES has a line for each class, in the data set's order: names that all mean it, with commas in
between, such as "background, sky, wall". MODEL is CLIP of Hugging Face, a folder or a name. OUT.pt
is for decode_head.text of LanguageGuidedHead.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_semi.files import check_there, write_file

TEMPLATE = 'a photo of a {}.'


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('model', metavar='MODEL', help='such as openai/clip-vit-base-patch16')
    parser.add_argument('names', metavar='NAMES', help='text file, a line for each class')
    parser.add_argument('out', metavar='OUT.pt', help='file to write')
    parser.add_argument(
        '--templates',
        nargs='+',
        default=[TEMPLATE],
        metavar='TEXT',
        help='sentences with {} for a name, whose mean embedding a name gets (default: one)',
    )
    args = parser.parse_args(argv)
    if not args.out.endswith('.pt'):
        parser.error(f'OUT.pt must end in .pt, got {args.out}')
    for template in args.templates:
        if template.count('{}') != 1:
            parser.error(f'--templates: write {{}} once for the name, got {template!r}')
    return args


def read_names(path: str) -> list[list[str]]:
    """Read the names of each class."""
    check_there(path, 'Correct the path.', 'NAMES')
    lines = Path(path).read_text(encoding='utf-8').rstrip().splitlines()
    names = [[one.strip() for one in line.split(',') if one.strip()] for line in lines]
    for number, several in enumerate(names, 1):
        if not several:
            raise SystemExit(f'{path}, line {number}: has no name; write those of class {number}')
    if not names:
        raise SystemExit(f'{path}: is empty; write the names of the classes, a line for each')
    return names


def load_clip(model: str) -> tuple[Any, Any]:
    """Load the text transformer with its projection, and the tokenizer."""
    try:
        from transformers import AutoTokenizer, CLIPTextModelWithProjection
    except ImportError as error:
        raise SystemExit(
            f"{model}: transformers is not installed; install it with pip install -e '.[hf]'"
        ) from error
    try:
        network = CLIPTextModelWithProjection.from_pretrained(model).eval()
        return network, AutoTokenizer.from_pretrained(model)
    except Exception as error:  # transformers has many, of the network too
        reason = ' '.join(str(error).split()).rstrip('.')
        raise SystemExit(
            f'{model}: CLIP cannot be loaded ({reason[:200]}); give a folder with its weights and '
            'tokenizer, or a name while there is a network'
        ) from error


@torch.no_grad()
def embed(network: Any, tokenizer: Any, name: str, templates: Sequence[str]) -> Tensor:
    """Embedding (C,) of a name, of length 1: the mean over templates, each of length 1."""
    sentences = [template.format(name) for template in templates]
    tokens = tokenizer(sentences, padding=True, truncation=True, return_tensors='pt')
    texts = F.normalize(network(**tokens).text_embeds.float(), dim=-1)
    return F.normalize(texts.mean(0), dim=-1)


def main(argv: Sequence[str] | None = None) -> None:
    """Embed the names and write them."""
    args = parse_args(argv)
    names = read_names(args.names)
    network, tokenizer = load_clip(args.model)
    texts = [embed(network, tokenizer, one, args.templates) for several in names for one in several]
    embeddings = torch.stack(texts)
    classes = torch.arange(len(names)).repeat_interleave(torch.tensor([len(one) for one in names]))
    buffer = io.BytesIO()
    torch.save(dict(embeddings=embeddings, classes=classes), buffer)
    write_file(Path(args.out), buffer.getvalue())
    print(
        f'wrote {args.out}: {len(texts)} texts of {len(names)} classes, {embeddings.shape[1]} '
        f'channels. In the config: model.segmentor.decode_head.text={args.out!r}'
    )
