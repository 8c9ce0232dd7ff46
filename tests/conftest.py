"""`pytest --device cuda` runs on a GPU the tests that can run on either device, and leaves the others out."""

import importlib

import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--device", default="cpu", choices=["cpu", "cuda"], help="where tests run that take `device` (%(default)s)"
    )

    parser.addoption(
        "--single-steps", action="store_true", help="recurrent layers launch each step: no program waits for another"
    )


def pytest_configure(config):
    if config.getoption("device") == "cuda":
        import cupy

        if not cupy.cuda.is_available():
            raise pytest.UsageError("--device cuda: expected an NVIDIA GPU, found none")
    if config.getoption("single_steps"):
        _forbid_whole_sequences()


def _forbid_whole_sequences() -> None:
    """Choices whether to walk a sequence in one launch are shipped as 0, and tuned ones are not read."""
    importlib.import_module("ranvier.kernels.recurrent.gpu")  # declares them
    from ranvier.kernels import tuning

    def never(default):
        return lambda *question: (0, *default(*question)[1:])

    choices = [choice for choice in tuning.Choice.registry.values() if "RESIDENT" in choice.fields]
    assert choices
    assert all(choice.fields[0] == "RESIDENT" for choice in choices)
    for choice in choices:
        choice._default = never(choice._default)
    tuning._tuned_on = lambda device: {}


def pytest_collection_modifyitems(config, items):
    if config.getoption("device") == "cpu":
        return
    left_out = [item for item in items if "device" not in item.fixturenames]
    items[:] = [item for item in items if "device" in item.fixturenames]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(scope="session")
def device(request):
    """'cpu' or 'cuda'."""
    return request.config.getoption("device")
