"""The command `ranvier`: train a recipe, use what it learned, profile kernels, look at this machine's devices."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import ranvier


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The command line. Recipes and their options are looked up for the command `train` only."""
    from ranvier.profiling import commands as profiling

    parser = argparse.ArgumentParser(prog="ranvier", description=ranvier.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"ranvier {ranvier.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="train a network on real data: `ranvier train digits`")
    train.add_argument("--list", action="store_true", help="show all recipes, a line each")
    if command == "train":
        _add_recipes(train)
    predict = commands.add_parser("predict", help="what a trained run says of your own files")
    predict.add_argument("run", type=Path, metavar="RUN", help="run folder that `ranvier train` left")
    predict.add_argument("files", type=Path, nargs="*", metavar="FILE", help="image, text, CSV or WAV, as the recipe")
    profiling.add_parsers(commands)
    commands.add_parser("devices", help="what this machine can compute on, and what is missing")
    return parser


def _add_recipes(train: argparse.ArgumentParser) -> None:
    from ranvier.train import recipes

    recipe_parsers = train.add_subparsers(dest="recipe", metavar="NAME")
    for name in recipes.names():
        module = recipes.load(name)
        one = recipe_parsers.add_parser(
            name,
            help=module.__doc__.splitlines()[0],
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        one.add_argument("--epochs", type=_positive, metavar="N", help="passes over the training data")
        one.add_argument("--device", default="cpu", help="cpu, cuda or cuda:<index> (%(default)s)")
        one.add_argument("--seed", type=int, default=0, help="of everything random (%(default)s)")
        one.add_argument("--run-dir", type=Path, metavar="DIR", help="where results go (a new folder below runs/)")
        one.add_argument("--resume", type=Path, metavar="CHECKPOINT", help="checkpoint folder of a run to go on with")
        one.add_argument("--quick", action="store_true", help="under half a minute, to see that it runs: learns little")
        module.add_arguments(one)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = build_parser(next((a for a in arguments if not a.startswith("-")), None)).parse_args(arguments)
    try:
        return _COMMANDS[options.command](options)
    except (ValueError, TypeError, OSError, ModuleNotFoundError, FloatingPointError, MemoryError) as error:
        print(f"ranvier: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nranvier: interrupted; what was written so far is whole", file=sys.stderr)
        return 130


def _train(options: argparse.Namespace) -> int:
    from ranvier.train import recipes, run_folder

    if options.list or options.recipe is None:
        for name in recipes.names():
            print(f"{name:12} {recipes.load(name).__doc__.splitlines()[0]}")
        return 0
    ranvier.seed(options.seed)
    if options.run_dir is None:
        options.run_dir = run_folder.new_run_folder(options.recipe)
    recipe = recipes.load(options.recipe)
    run_folder.write_run(options.run_dir, options.recipe, options)
    recipe.run(options)
    return 0


def _predict(options: argparse.Namespace) -> int:
    from ranvier.train import recipes, run_folder

    run = run_folder.open_run(options.run)
    missing = [str(path) for path in options.files if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"predict: expected files that are there, got {', '.join(missing)}")
    for answer in recipes.load(run.recipe).predict(run, options.files):
        print(answer, flush=True)
    return 0


def _profile(options: argparse.Namespace) -> int:
    from ranvier.profiling import commands

    return commands.profile(options)


def _bench(options: argparse.Namespace) -> int:
    from ranvier.profiling import commands

    return commands.bench(options)


def _tune(options: argparse.Namespace) -> int:
    from ranvier.profiling import commands

    return commands.tune(options)


def _devices(options: argparse.Namespace) -> int:
    from ranvier.profiling import devices

    print(devices.describe())
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of 1 or more, got {text}")
    return value


_COMMANDS = {
    "train": _train,
    "predict": _predict,
    "profile": _profile,
    "bench": _bench,
    "tune": _tune,
    "devices": _devices,
}

if __name__ == "__main__":
    sys.exit(main())
