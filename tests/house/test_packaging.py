"""Wheel and editable install: the same packages under `ranvier`, nothing else in site-packages."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("ranvier", "kernels", "layers", "train", "profiling")


def test_every_folder_with_code_is_listed():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {path.parent.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("__init__.py")}
    names = {"ranvier" if p.parts == ("ranvier",) else ".".join(("ranvier", *p.parts)) for p in found}
    assert listed == names


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # Built from a copy: setuptools leaves its build folder beside the sources.
    source = folder / "source"
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listing.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("ranvier-*.whl"))


@pytest.mark.slow
def test_wheel_imports_as_ranvier(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}
        archive.extractall(tmp_path)
    assert {name for name in top if not name.endswith(".dist-info")} == {"ranvier"}
    code = (
        "import ranvier, ranvier.kernels.dense, ranvier.layers, ranvier.train.data, ranvier.profiling\n"
        f"assert ranvier.__file__.startswith({str(tmp_path)!r}), ranvier.__file__\n"
        "images, labels = ranvier.train.data.load_digits()\n"
        "from importlib import resources\n"
        "assert resources.files(ranvier.train.data).joinpath('intents.json').is_file()\n"
        "print(images.shape, ranvier.Dense(2, 3)(ranvier.tensor(images[:, 0, 0, :2])).shape)"
    )
    # -S would hide NumPy; the extracted wheel goes first on the path, before an editable install's finder.
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
         "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]\n" + code],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "(1797, 1, 8, 8) (1797, 3)"


def test_editable_install_imports_from_the_tree():
    code = "import ranvier, ranvier.kernels.dense as d; print(ranvier.__file__, d.__file__)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=True)
    assert all(Path(name).is_relative_to(ROOT) for name in result.stdout.split())
