"""The command line program ``mmseg-semi``.

A package beside ``mmseg_semi``: help and wrong options do not wait for torch to be imported. A new
command is a line of ``COMMANDS`` and its options, a click command or a parser of argparse, here;
what it does is imported when it is called with good ones.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Union

import click

from mmseg_semi_cli import own_images, runs

_TOKENIZER = 'mmseg.utils.tokenizer'


class Command(NamedTuple):
    """What reads the options of a command, what is said of it, and what does it.

    The latter is the module of its name in ``mmseg_semi.apis``, unless another is named.
    """

    options: Union[click.Command, Callable[[], argparse.ArgumentParser]]
    help: str
    example: str
    module: str = ''


COMMANDS = {
    'import-labels': Command(
        own_images.import_labels,
        'Make images and masks of the export of a labeling tool.',
        'mmseg-semi import-labels export.zip --images photos --out data/mine',
    ),
    'split': Command(
        own_images.split,
        'Divide a folder into labeled, unlabeled, val and test lists.',
        'mmseg-semi split data/mine --labeled 50 --val 0.2 --test 0.2 --seed 0',
    ),
    'check': Command(
        runs.check,
        'Look at all files of a config before a training.',
        'mmseg-semi check configs/leaves.py',
    ),
    'plan': Command(
        runs.plan,
        'Say how much memory a training takes, and what fits.',
        'mmseg-semi plan configs/leaves.py --gpu-memory 24GB',
        'mmseg_semi.benchmarks.plan',
    ),
    'train': Command(
        runs.train,
        'Train a config, with or without unlabeled images.',
        'mmseg-semi train configs/unimatch/unimatch_unet_digit-scenes-60.py --work-dir runs/first',
    ),
    'test': Command(
        runs.test,
        'Test a checkpoint on images with masks.',
        'mmseg-semi test runs/first/config.py runs/first/iter_2000.pth',
    ),
    'predict': Command(
        runs.predict,
        'Predict images of any size, without masks.',
        'mmseg-semi predict runs/first/iter_2000.pth photos --out predicted --overlay',
    ),
    'extract': Command(
        runs.extract,
        'Write the student or the teacher as a plain mmseg model.',
        'mmseg-semi extract runs/first/iter_2000.pth --out plain.pth',
        'mmseg_semi.zoo.extract_segmentor',
    ),
    'export': Command(
        runs.export,
        'Write the network as an ONNX file, which runs without torch.',
        'mmseg-semi export --onnx runs/first/iter_2000.pth --out leaves.onnx',
        'mmseg_semi.zoo.export',
    ),
    'compare': Command(
        runs.compare,
        'Compare trainings in a table, over their seeds.',
        'mmseg-semi compare runs/supervised runs/unimatch --out table.md',
        'mmseg_semi.zoo.compare',
    ),
    'report': Command(
        runs.report,
        'Write one page about trainings: curves, classes, pictures.',
        'mmseg-semi report runs/supervised runs/unimatch --out report.html',
        'mmseg_semi.zoo.report',
    ),
}


class Commands(click.Group):
    """Commands that are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are used."""
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a line for each, and an example."""
        with formatter.section('Commands'):
            formatter.write_dl([(name, one.help) for name, one in COMMANDS.items()])
        with formatter.section('Examples'):
            for one in COMMANDS.values():
                formatter.write(f'  {one.example}\n')

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command with its example."""
        if cmd_name not in COMMANDS:
            return None
        one = COMMANDS[cmd_name]
        if isinstance(one.options, click.Command):
            one.options.epilog = f'\b\nExample:\n  {one.example}'
            return one.options
        return Tool(cmd_name, one, one.options)


class Tool(click.Command):
    """A command whose options argparse reads, and whose ``main`` gets them as they are."""

    def __init__(
        self, name: str, one: Command, options: Callable[[], argparse.ArgumentParser]
    ) -> None:
        super().__init__(name, help=one.help, add_help_option=False)
        self.options, self.example = options, one.example
        self.module = one.module or f'mmseg_semi.apis.{name}'

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Print the help, or refuse what is no option."""
        parser = self.options()
        parser.prog = f'mmseg-semi {self.name}'
        parser.epilog = f'example:\n  {self.example}'
        parser.parse_args(args)
        ctx.params['arguments'] = args
        return args

    def invoke(self, ctx: click.Context) -> Any:
        """Import what the command does, and do it."""
        arguments = ctx.params['arguments']
        # What a stopped run is gone on with.
        sys.argv = [f'mmseg-semi {self.name}', *arguments]
        return importlib.import_module(self.module).main(arguments)


@click.group(cls=Commands, context_settings=dict(help_option_names=['-h', '--help']))
@click.option(
    '--traceback', is_flag=True, help='Show where an error comes from (with any command).'
)
def program(traceback: bool) -> None:
    """Semi-supervised semantic segmentation."""


def parse(arguments: Sequence[str]) -> Callable[[], Any]:
    """Read a command line, which imports nothing of the command.

    Args:
        arguments: Words after the name of the program.

    Returns:
        What does it.

    Raises:
        SystemExit: It asks for help, or is refused in a sentence, with exit status 2.
    """
    name, *words = arguments or ['--help']
    group = click.Context(program, info_name='mmseg-semi', **program.context_settings)
    try:
        command = program.get_command(group, name)
        if command is None:  # help of the program itself, or no command
            raise SystemExit(program.main([name, *words], 'mmseg-semi', standalone_mode=False))
        context = command.make_context(name, words, parent=group)
    except click.exceptions.Exit as end:
        raise SystemExit(end.exit_code) from None
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    return lambda: command.invoke(context)


def _import_package() -> None:
    """Import the package, and not what mmseg and mmengine bring for a few configs alone.

    These are mmdet (85 MiB, seconds) and transformers (a second, for its optimizer Adafactor),
    which ``load_config`` brings for a config that has one, and the vocabulary of CLIP (25 MiB),
    which the first text brings. Nothing that is imported is garbage: it is not searched for
    meanwhile, which takes a fifth of the time, nor later, with each data set that mmengine builds.
    """
    if 'mmseg' in sys.modules or 'mmdet' in sys.modules:
        return
    tokenizer = types.ModuleType(_TOKENIZER)
    tokenizer.tokenize = _tokenize  # type: ignore[attr-defined]
    sys.modules[_TOKENIZER] = tokenizer
    left_out = {'mmdet', 'transformers'} - set(sys.modules)
    sys.modules.update(dict.fromkeys(left_out))  # type: ignore[arg-type]
    gc.disable()
    try:
        importlib.import_module('mmseg_semi')
        gc.freeze()
    finally:
        gc.enable()
        for name in left_out:
            del sys.modules[name]


def _tokenize(*args: Any, **kwargs: Any) -> Any:
    if getattr(sys.modules[_TOKENIZER], 'tokenize', None) is _tokenize:
        del sys.modules[_TOKENIZER]
    return importlib.import_module(_TOKENIZER).tokenize(*args, **kwargs)


def run_tool(module: str) -> None:
    """Run the ``main`` of a module as a script does; a refusal is one sentence and exit status 1.

    Args:
        module: Its name.
    """
    _import_package()
    from mmseg_semi.errors import run_tool

    run_tool(importlib.import_module(module).main)


def main() -> None:
    """Run the program; a refusal is one sentence and exit status 1."""
    work = parse([one for one in sys.argv[1:] if one != '--traceback'])
    _import_package()
    from mmseg_semi.errors import run_tool

    run_tool(lambda _: work())


if __name__ == '__main__':
    main()
