"""stylegan-lightning VERB ...: the command of the package."""

from __future__ import annotations

from typing import Annotated

import typer

import stylegan_lightning
from stylegan_lightning.cli.common import messages
from stylegan_lightning.cli.directions import directions
from stylegan_lightning.cli.edit import edit
from stylegan_lightning.cli.explore import explore
from stylegan_lightning.cli.export import export
from stylegan_lightning.cli.generate import generate
from stylegan_lightning.cli.mix import mix
from stylegan_lightning.cli.project import project
from stylegan_lightning.cli.repair import repair
from stylegan_lightning.cli.walk import walk

app = typer.Typer(
    name="stylegan-lightning",
    help="Use a trained model: every verb takes a run directory, a checkpoint or an exported generator.",
    epilog="Training: python train.py --help. Measuring: python evaluate.py --help.",
    no_args_is_help=True,
    rich_markup_mode="markdown",  # whose paragraphs are wrapped anew
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for verb in (generate, mix, walk, directions, project, edit, repair, explore, export):
    app.command()(verb)


def _version(wanted: bool) -> None:
    if wanted:
        print(stylegan_lightning.__version__)
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


def main() -> None:
    with messages():
        app()


if __name__ == "__main__":
    main()
