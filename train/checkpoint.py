"""Saving and loading: arrays as safetensors, everything else as JSON; reading runs no code from the file.

A file is written under a temporary name, synced, and renamed, so that a crash leaves the old one or the new one, never
half of one. A checkpoint is a folder with one array file and `state.json`, which names it: the renaming of
`state.json` is the moment at which the new checkpoint counts.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from ..kernels.device import to_device
from ..layers.layer import Layer
from ..layers.tensor import Tensor

_ARRAY = "$array"
_FORMAT = 1


def save(path: str | Path, what: Layer | dict) -> None:
    """Writes a layer's parameters and buffers, or a dict of arrays or tensors, to a safetensors file.

    PyTorch's checkpoints of the same network have the same names and shapes.
    """
    state = what.state_dict() if isinstance(what, Layer) else what
    if not isinstance(state, dict):
        raise TypeError(
            f"save: expected a path, then a layer or a dict of arrays, got {type(what).__name__} as the latter"
        )
    arrays = {name: _host_array(f"save: {name}", value) for name, value in state.items()}
    write_atomically(Path(path), lambda temporary: save_file(arrays, temporary))


def load(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by name, for `layer.load_state_dict`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no safetensors file, or a damaged one.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"load: expected {path} as a whole safetensors file: {error}") from None


def save_checkpoint(folder: str | Path, state: dict) -> None:
    """Writes a tree of dicts, lists, arrays, tensors, numbers, strings and None as a checkpoint folder.

    Args:
        folder: made if it is not there. What it held before counts until the new state is whole.
        state: the tree; keys of dicts are strings.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    tree = _split(state, "", arrays)
    before = {path.name for path in folder.glob("arrays-*.safetensors")}
    number = 1 + max((int(name[7:-12]) for name in before if name[7:-12].isdecimal()), default=0)
    name = f"arrays-{number}.safetensors"
    write_atomically(folder / name, lambda temporary: save_file(arrays, temporary))
    text = json.dumps({"format": _FORMAT, "arrays": name, "state": tree}, indent=1)
    write_atomically(folder / "state.json", lambda temporary: Path(temporary).write_text(text))
    for old in before:
        (folder / old).unlink(missing_ok=True)


def load_checkpoint(folder: str | Path) -> dict:
    """The tree that `save_checkpoint` wrote, with NumPy arrays.

    Raises:
        FileNotFoundError: there is no checkpoint in the folder.
        ValueError: it is damaged, or of a format that this version does not know.
    """
    folder = Path(folder)
    if not (folder / "state.json").is_file():
        raise FileNotFoundError(f"load_checkpoint: expected a checkpoint (state.json) in {folder}, found none")
    try:
        content = json.loads((folder / "state.json").read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"load_checkpoint: expected {folder / 'state.json'} as JSON: {error}") from None
    if content.get("format") != _FORMAT:
        raise ValueError(f"load_checkpoint: expected format {_FORMAT} in {folder}, got {content.get('format')!r}")
    return _join(content["state"], load(folder / content["arrays"]))


def _split(value, path: str, arrays: dict):
    """The tree with a marker in place of each array, which goes to `arrays` under its path."""
    if isinstance(value, dict):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"save_checkpoint: expected keys as strings at {path or 'the root'}, got {wrong[0]!r}")
        return {key: _split(item, f"{path}/{key}", arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_split(item, f"{path}/{index}", arrays) for index, item in enumerate(value)]
    if isinstance(value, Tensor) or hasattr(value, "__array_interface__") or hasattr(value, "__cuda_array_interface__"):
        arrays[path] = _host_array(f"save_checkpoint: {path}", value)
        return {_ARRAY: path}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"save_checkpoint: expected arrays, numbers, strings or None at {path}, got {type(value).__name__}")


def _join(tree, arrays: dict):
    if isinstance(tree, dict):
        return arrays[tree[_ARRAY]] if set(tree) == {_ARRAY} else {key: _join(v, arrays) for key, v in tree.items()}
    return [_join(item, arrays) for item in tree] if isinstance(tree, list) else tree


def _host_array(where: str, value) -> np.ndarray:
    array = value.array if isinstance(value, Tensor) else value
    array = to_device(np.asarray(array) if isinstance(array, np.generic) else array, "cpu")
    if not isinstance(array, np.ndarray) or array.dtype.hasobject:
        raise TypeError(f"{where}: expected an array of numbers, got {type(value).__name__}")
    # safetensors writes wrong values for arrays that are not C-contiguous. (ascontiguousarray would turn 0-d into 1-d.)
    return array if array.flags.c_contiguous else array.copy(order="C")


def write_atomically(path: Path, write: Callable[[str], None]) -> None:
    """Calls write(temporary name in the same folder), syncs file and folder, renames to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
