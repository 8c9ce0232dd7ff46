"""The commands `ranvier profile`, `ranvier bench` and `ranvier tune`: which module answers which words.

It is imported when asked, so that other commands start at once."""

from __future__ import annotations

import argparse
import importlib
import shlex

_HELP = "time kernels and models, and compare them with this machine's limits: `ranvier profile conv2d`"
_FORMS = """
more:
  ranvier profile model TARGET        a training step, layer by layer and kernel by kernel
  ranvier profile compare OLD NEW     what got faster and slower between two files of measurements
  ranvier profile --static WHAT       registers, spills and occupancy of the GPU kernels, without a GPU
  ranvier bench                       this library's standing table against PyTorch on this machine
"""


def add_parsers(commands) -> None:
    """Adds `profile`, `bench` and `tune` to the command line's subparsers.

    What follows the command's name is parsed by the module that answers, so nothing in it counts as an option here.
    """
    for name, text in (
        ("profile", _HELP),
        ("bench", "this library's standing table against PyTorch on this machine"),
        ("tune", "search for the fastest tiles of GPU kernels on this machine's GPU: `ranvier tune dense`"),
    ):
        parser = commands.add_parser(name, help=text, add_help=False, prefix_chars="\0")
        parser.add_argument("words", nargs="*")


def profile(options: argparse.Namespace) -> int:
    """Runs what the words after `ranvier profile` ask for; returns the exit status."""
    words = list(options.words)
    if words and words[0] in ("model", "compare"):
        return _run(words[0], f"profile {words[0]}", words[1:])
    if "--static" in words:
        words.remove("--static")
        return _run("static", "profile --static", words)
    return _run("operations", "profile", words, epilog=_FORMS)


def bench(options: argparse.Namespace) -> int:
    """Runs `ranvier bench`; returns the exit status."""
    return _run("bench", "bench", list(options.words))


def tune(options: argparse.Namespace) -> int:
    """Runs `ranvier tune`; returns the exit status."""
    return _run("tune", "tune", list(options.words))


def _run(module_name: str, command: str, words: list[str], epilog: str | None = None) -> int:
    module = importlib.import_module(f".{module_name}", __package__)
    parser = argparse.ArgumentParser(
        prog=f"ranvier {command}",
        description=module.__doc__,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    options = parser.parse_args(words)
    options.command_line = shlex.join(["ranvier", *command.split(), *words])
    return module.run(options)
