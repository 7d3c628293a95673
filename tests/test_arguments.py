"""Declared ranges of arguments."""

from __future__ import annotations

from typing import Annotated, Optional

import pytest
import torch

from mmseg_semi.arguments import (
    Each,
    Feature,
    Number,
    OneOf,
    Whole,
    check_arguments,
    check_shapes,
    checked,
)
from mmseg_semi.engine.hooks import MeanTeacherHook
from mmseg_semi.models import ContrastHead, CorrelationHead


class Box:
    @checked
    def __init__(
        self,
        share: Annotated[float, Number(0, 1)] = 0.5,
        rate: Annotated[float, Number(0, above=True)] = 1.0,
        dropout: Annotated[float, Number(0, 1, below=True)] = 0.0,
        count: Annotated[Optional[int], Whole(1)] = None,
        top: Annotated[int, Whole(2, 8)] = 4,
        kind: Annotated[str, OneOf('max', 'mean')] = 'max',
        decay: bool = True,
        pair: Annotated[tuple, Each(Number(0), 2)] = (1, 2),
        tap: Annotated[str, Feature()] = 'encoder',
        anything: Optional[int] = None,
    ) -> None:
        self.given = share, rate, dropout, count, top, kind, decay, pair, tap, anything


class Named(Box):
    """A subclass names itself in the messages."""


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(share=1.5), r'Box\.share must be a number in \[0, 1\], got 1\.5'),
        (dict(share=True), r'Box\.share must be a number in \[0, 1\], got True'),
        (dict(share=float('nan')), r'Box\.share must be a number in \[0, 1\], got nan'),
        (dict(share=None), r'Box\.share must be a number in \[0, 1\], got None'),
        (dict(rate=0), r'Box\.rate must be a number > 0, got 0'),
        (dict(dropout=1), r'Box\.dropout must be a number in \[0, 1\), got 1'),
        (dict(count=0), r'Box\.count must be a whole number >= 1, got 0'),
        (dict(count=2.0), r'Box\.count must be a whole number >= 1, got 2\.0'),
        (dict(top=9), r'Box\.top must be a whole number from 2 to 8, got 9'),
        (dict(kind='maxx'), r"Box\.kind must be one of .*got 'maxx'. Did you mean 'max'"),
        (dict(decay=1), r'Box\.decay must be one of \(True, False\), got 1'),
        (dict(pair=(1, -2)), r'Box\.pair must be a number >= 0, got -2'),
        (dict(pair=(1,)), r'Box\.pair must be a list of 2 values, got \(1,\)'),
        (dict(pair='12'), r"Box\.pair must be a list of 2 values, got '12'"),
        (dict(tap=''), r"Box\.tap must be the name of a feature.*got ''"),
    ],
)
def test_values_outside_their_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Box(**wrong)
    with pytest.raises(ValueError, match=message.replace('Box', 'Named', 1)):
        Named(**wrong)


def test_values_on_the_border_and_defaults_pass():
    Box(), Box(None or 0, 1e-9, 0.99, None, 2), Box(1, count=1, top=8, pair=[0, 3], anything='x')


def test_unknown_arguments_name_the_class():
    with pytest.raises(TypeError, match=r"Named: .*unexpected keyword argument 'shares'"):
        Named(shares=1)


@pytest.mark.parametrize(
    'owner, name, message',
    [
        (CorrelationHead, 'position', r'model\.heads\.one: position is now tap'),
        (ContrastHead, 'queues', r'model\.heads\.one: queues is now bank'),
        (MeanTeacherHook, 'momentum', r'one: momentum is now model\.teacher\.momentum'),
        (CorrelationHead, 'scala', "has no argument 'scala'.*Did you mean 'scale'"),
    ],
)
def test_names_of_before_are_refused_with_the_new_one(owner, name, message):
    with pytest.raises(TypeError, match=message):
        check_arguments(owner, {name: 1}, 'model.heads.one', complete=False)


@pytest.mark.parametrize('shape', [(2, 4), (3, 4, 5), (2, 4, 6), (2, 3, 4, 5)])
def test_shapes_that_do_not_fit_each_other_are_refused(shape):
    prob = torch.zeros(2, 3, 4, 5)
    check_shapes(prob=(prob, 'B K H W'), valid=(torch.zeros(2, 4, 5), 'B H W'))
    message = (
        'the shapes must be prob (B, K, H, W), valid (B, H, W), each letter one size, got '
        f'(2, 3, 4, 5), {shape}'
    )
    with pytest.raises(ValueError) as error:
        check_shapes(prob=(prob, 'B K H W'), valid=(torch.zeros(shape), 'B H W'))
    assert str(error.value) == message
