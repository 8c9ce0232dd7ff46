"""Runs a module on the stand-in GPU: `python tests/standin MODULE [ARGUMENTS]`."""

import runpy
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[1])

import standin

if reason := standin.missing():
    sys.exit(reason)
standin.install()
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
