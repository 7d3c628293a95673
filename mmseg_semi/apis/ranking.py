r"""Which images are worth a label next: ``mmseg-semi predict --rank-by uncertainty``.

Of image :math:`i` with the pixels :math:`p`:

- uncertainty :math:`u_i = \mathrm{mean}_p (1 - (q_{p,1} - q_{p,2}))`, with the two largest
  probabilities of a pixel (margin sampling; Joshi et al., CVPR 2009, "best versus second best");
- disagreement :math:`d_i`: share of the pixels on which student and teacher differ, 0 without a
  teacher (query by committee; Seung et al., COLT 1992);
- coverage :math:`c_i = \min_j (1 - \cos(f_i, f_j)) / 2` over the images :math:`j` that were chosen
  before, 1 for the first (near to the k-center of Sener and Savarese, ICLR 2018); :math:`f` is the
  mean of the encoder's last map, each channel standardized over all images.

Images are chosen one after another by the largest :math:`(u_i + d_i) c_i`, so that of images that
look alike the second comes late.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from mmseg_semi.apis.predicting import Band
from mmseg_semi.prepare.own_files import OwnFiles

RANKING = 'ranking.csv'
COLUMNS = ('rank', 'image', 'score', 'uncertainty', 'disagreement', 'coverage')
#: So many images are chosen one after another; the others follow as they would come next.
CHOSEN = 1000
_MOST_FEATURES = 64
_DIGITS = 6


class Tally:
    """Adds up what an image is ranked by, band by band."""

    def __init__(self) -> None:
        self.pixels = 0
        self.uncertain = self.differing = 0.0
        self.features: list[torch.Tensor] = []

    def add(self, band: Band) -> None:
        """Take in the next rows."""
        found = band.probabilities()
        if len(found) == 1:  # of a sigmoid: the other class has the rest
            found = torch.cat([found, 1 - found])
        first, second = found.topk(2, dim=0).values
        self.uncertain += float((1 - (first - second)).double().sum())
        if band.other_labels is not None:
            self.differing += float((band.labels != band.other_labels).sum())
        self.pixels += band.labels.numel()
        if band.features is not None:
            self.features.append(band.features)

    def scores(self) -> dict[str, Any]:
        """Numbers that can be kept as text."""
        features = torch.stack(self.features).mean(dim=0)
        if len(features) > _MOST_FEATURES:  # directions that are the same in every run
            random = torch.Generator().manual_seed(0)
            features = torch.randn(_MOST_FEATURES, len(features), generator=random) @ features
        return dict(
            uncertainty=round(self.uncertain / self.pixels, _DIGITS),
            disagreement=round(self.differing / self.pixels, _DIGITS),
            features=[float(f'{one:.4g}') for one in features.tolist()],
        )


def ranked(scores: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Order images, the one most worth a label first.

    Args:
        scores: By image, see :meth:`Tally.scores`.

    Returns:
        A row for each image, with ``COLUMNS``.
    """
    images = list(scores)
    worth = np.array([one['uncertainty'] + one['disagreement'] for one in scores.values()])
    features = np.array([one['features'] for one in scores.values()], np.float64)
    spread = features.std(axis=0)
    features = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    features /= np.where(length > 0, length, 1)
    coverage = np.ones(len(images))
    left = np.ones(len(images), bool)
    order: list[int] = []
    for _ in range(min(CHOSEN, len(images))):
        best = int(np.where(left, worth * coverage, -1).argmax())
        order.append(best)
        left[best] = False
        apart = (1 - features @ features[best]) / 2
        coverage[left] = np.minimum(coverage, apart.clip(0, 1))[left]
    rest = np.flatnonzero(left)
    order += rest[np.argsort(-(worth * coverage)[rest], kind='stable')].tolist()
    return [
        dict(
            rank=place,
            image=images[one],
            score=round(float(worth[one] * coverage[one]), _DIGITS),
            uncertainty=scores[images[one]]['uncertainty'],
            disagreement=scores[images[one]]['disagreement'],
            coverage=round(float(coverage[one]), _DIGITS),
        )
        for place, one in enumerate(order, 1)
    ]


def write_ranking(own: OwnFiles, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write ``ranking.csv``.

    Raises:
        DataError: There is one that this function has not written.
    """
    own.claim({RANKING: None})
    text = io.StringIO(newline='')
    writer = csv.DictWriter(text, COLUMNS, lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    own.write(RANKING, text.getvalue())
    own.close({RANKING: None})
