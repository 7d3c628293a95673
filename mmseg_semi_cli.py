"""The command line program ``mmseg-semi``.

A module beside the package, so that the list of commands does not wait for torch to be imported. A
new command is a line of ``COMMANDS`` and a module: one whose ``command`` is a click command, or one
whose ``main`` takes the list of arguments, like the tools of argparse.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import click


class Command(NamedTuple):
    """Where a command is, and what is said of it."""

    module: str
    help: str
    example: str


COMMANDS = {
    'import-labels': Command(
        'mmseg_semi.prepare.import_labels',
        'Make images and masks of the export of a labeling tool.',
        'mmseg-semi import-labels export.zip --images photos --out data/mine',
    ),
    'split': Command(
        'mmseg_semi.prepare.split_folder',
        'Divide a folder into labeled, unlabeled, val and test lists.',
        'mmseg-semi split data/mine --labeled 50 --val 0.2 --test 0.2 --seed 0',
    ),
    'check': Command(
        'mmseg_semi.apis.check',
        'Look at all files of a config before a training.',
        'mmseg-semi check configs/leaves.py',
    ),
    'train': Command(
        'mmseg_semi.apis.train',
        'Train a config, with or without unlabeled images.',
        'mmseg-semi train configs/unimatch/unimatch_unet_digit-scenes-60.py --work-dir runs/first',
    ),
    'test': Command(
        'mmseg_semi.apis.test',
        'Test a checkpoint on images with masks.',
        'mmseg-semi test runs/first/config.py runs/first/iter_2000.pth',
    ),
    'predict': Command(
        'mmseg_semi.apis.predict',
        'Predict images of any size, without masks.',
        'mmseg-semi predict runs/first/iter_2000.pth photos --out predicted --overlay',
    ),
    'extract': Command(
        'mmseg_semi.zoo.extract_segmentor',
        'Write the student or the teacher as a plain mmseg model.',
        'mmseg-semi extract runs/first/iter_2000.pth --out plain.pth',
    ),
    'export': Command(
        'mmseg_semi.zoo.export',
        'Write the network as an ONNX file, which runs without torch.',
        'mmseg-semi export --onnx runs/first/iter_2000.pth --out leaves.onnx',
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
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        one = COMMANDS[cmd_name]
        module = importlib.import_module(one.module)
        command: click.Command = getattr(module, 'command', None) or _passing(
            cmd_name, one, module.main
        )
        command.epilog = f'\b\nExample:\n  {one.example}'
        return command


def _passing(name: str, one: Command, main: Callable[[Sequence[str]], Any]) -> click.Command:
    """A command that leaves its arguments, ``--help`` too, to a program of argparse."""

    @click.command(
        name,
        help=one.help,
        add_help_option=False,
        context_settings=dict(ignore_unknown_options=True),
    )
    @click.argument('arguments', nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> Any:
        # What argparse calls the program, and what a stopped run is gone on with.
        sys.argv = [f'mmseg-semi {name}', *arguments]
        try:
            return main(list(arguments))
        finally:
            if '-h' in arguments or '--help' in arguments:
                print(f'\nexample:\n  {one.example}')

    return command


@click.group(cls=Commands, context_settings=dict(help_option_names=['-h', '--help']))
@click.option(
    '--traceback', is_flag=True, help='Show where an error comes from (with any command).'
)
def program(traceback: bool) -> None:
    """Semi-supervised semantic segmentation."""


def run(arguments: Sequence[str]) -> Any:
    """Run a command; what click refuses ends with its sentence and exit status 2."""
    try:
        return program.main(list(arguments), prog_name='mmseg-semi', standalone_mode=False)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        raise KeyboardInterrupt from None


def main() -> None:
    """Run the program; a refusal is one sentence and exit status 1."""
    words = [one for one in sys.argv[1:] if one != '--traceback']
    if not words or words[0] not in COMMANDS:  # help, or no command: nothing to import
        sys.exit(run(words or ['--help']))
    from mmseg_semi.errors import run_tool

    run_tool(run)


if __name__ == '__main__':
    main()
