"""What is slow in mmengine, and is done once (the faults of mmseg are tried where they show)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config, config

from mmseg_semi.utils.upstream_fixes import format_configs_once


def test_a_config_is_formatted_again_only_when_it_has_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    formatted = []

    def format_code(text: str, **options: Any) -> tuple[str, bool]:
        formatted.append((text, sorted(options)))
        return text.upper() + '\n', True

    monkeypatch.setattr(config, 'FormatCode', format_code)
    format_configs_once()
    format_configs_once()
    cfg = Config(dict(first=1))
    assert cfg.pretty_text == cfg.pretty_text == 'FIRST=1\n'
    cfg.dump(tmp_path / 'config.py')
    assert (tmp_path / 'config.py').read_text() == 'FIRST=1\n'
    cfg.second = 2
    assert cfg.pretty_text == 'FIRST=1\nSECOND=2\n'
    assert formatted == [(text, ['style_config']) for text in ('first=1', 'first=1\nsecond=2')]
