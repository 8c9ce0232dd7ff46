"""`pytest --device cuda` runs on a GPU the tests that can run on either device, and leaves the others out."""

import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--device", default="cpu", choices=["cpu", "cuda"], help="where tests run that take `device` (%(default)s)"
    )


def pytest_configure(config):
    if config.getoption("device") == "cuda":
        import cupy

        if not cupy.cuda.is_available():
            raise pytest.UsageError("--device cuda: expected an NVIDIA GPU, found none")


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
