"""The command line: parses, builds, calls. Every import that costs time happens inside the command that needs it."""

import argparse
import importlib
import logging
import sys
import warnings

import tokjax
from tokjax.cli import generation, listings, models, planning, tokens, watching
from tokjax.cli.options import Run
from tokjax.core.console import INTERRUPTED, drop_output, exit_on_interrupt, show_warning
from tokjax.core.errors import OutputError, TokjaxError

_EXAMPLES = """\
start here:
  tokjax compare --source pydocs --systems bytes,bpe,hat --budget 1e12flops --out runs/first
      train three ways of tokenizing the same text at equal compute; open runs/first/report.html
  tokjax compare --source 'file:books/*.txt?records=paragraphs' --systems bpe:2048,bpe:8192 --budget 60s --out runs/mine
  tokjax compare --images photos:?size=16 --systems vqgan,titok/latents=8,flextok --budget 60s --out runs/images
  tokjax fit --tokenizer bpe --source pydocs --vocab 8192 --out runs/bpe
  tokjax encode --tokenizer runs/bpe < README.md > ids && tokjax decode --tokenizer runs/bpe < ids
  tokjax tokenize --tokenizer runs/bpe --source pydocs --out runs/ids
  tokjax train --config lm:small --workdir runs/lm --config.optimizer.learning_rate=1e-3
  tokjax watch runs/lm
  tokjax plan --config lm_7b:paper --topology v5p:4x4x4
  tokjax sample --workdir runs/lm --prompt 'The '
  tokjax generate --workdir runs/maskgit --count 16 --out runs/drawn

`tokjax COMMAND --help` explains each command. A run that was stopped goes on when started again.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, 2 for a user's mistake, 130 or 143 for SIGINT or SIGTERM, else 1."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    arguments.overrides = [a.removeprefix("--config.") for a in rest if a.startswith("--config.")]
    unknown = [a for a in rest if not a.startswith("--config.")]
    if unknown or (arguments.overrides and arguments.command not in ("train", "plan")):
        parser.error(f"unrecognized arguments: {' '.join(unknown or rest)}")
    warnings.showwarning = show_warning
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # orbax forgets the futures of a save that raised
    try:
        with exit_on_interrupt():
            importlib.import_module(arguments.loads)
        code = arguments.run(arguments) or 0
        sys.stdout.flush()
        return code
    except TokjaxError as error:
        print(f"tokjax: error: {error}", file=sys.stderr)
        drop_output()
        return error.exit_code
    except KeyboardInterrupt:
        print("tokjax: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        drop_output()
        return 1
    except OSError as error:  # the files that tokjax names itself raise typed errors; what is left is printing
        problem = f"{error.filename or 'standard output'}: {error.strerror or error}"
        print(f"tokjax: error: {problem}. Free space or choose another place.", file=sys.stderr)
        drop_output()
        return OutputError.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tokjax",
        description="What should a token be? Tokenizers, models and measurements on JAX.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tokjax {tokjax.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Run, text: str, loads: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        sub.set_defaults(run=run, loads=loads)
        return sub

    for group in (models, planning, watching, generation, tokens, listings):
        group.add(command)
    return parser
