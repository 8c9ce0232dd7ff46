"""Each form of `ranvier profile`, and `ranvier bench`, reaches the module that answers it; other commands load none."""

import subprocess
import sys

import pytest

import ranvier.__main__ as command

FORMS = {
    "profile": "operations, families, or all",
    "profile model": "usage: ranvier profile model",
    "profile compare": "usage: ranvier profile compare",
    "profile --static": "usage: ranvier profile --static",
    "bench": "usage: ranvier bench",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_explains_itself(form, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main([*form.split(), "--help"])
    assert stop.value.code == 0
    assert FORMS[form] in capsys.readouterr().out


def test_static_may_stand_anywhere(capsys):
    with pytest.raises(SystemExit):
        command.main(["profile", "conv2d", "--static", "--help"])
    assert "usage: ranvier profile --static" in capsys.readouterr().out


def test_other_commands_load_none_of_them():
    code = (
        "import sys, ranvier.__main__ as command\n"
        "command.main(['train', '--list'])\n"
        "loaded = [name.split('.')[-1] for name in sys.modules if name.startswith('ranvier.profiling.')]\n"
        "print(*loaded, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "commands" in result.stderr.split()
    assert not {"operations", "model", "compare", "static", "bench", "timing"} & set(result.stderr.split())
