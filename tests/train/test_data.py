"""Datasets, readers, augmentation, loader."""

import gzip
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ranvier as rv
from ranvier.train import data


@pytest.fixture(autouse=True)
def _seed():
    rv.seed(0)


def numbered(count):
    """Examples that tell their own number: an image of it and a label."""
    return data.ArrayDataset(
        np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1) * np.ones((1, 1, 4, 4), "f4"), np.arange(count)
    )


def labels_of(loader):
    return [batch[-1].numpy().tolist() for batch in loader]


def test_digits_are_the_uci_digits():
    images, labels = data.load_digits()
    from sklearn.datasets import load_digits

    theirs = load_digits()
    np.testing.assert_array_equal(images.reshape(-1, 64) * 16, theirs.data)
    np.testing.assert_array_equal(labels, theirs.target)
    assert images.dtype == np.float32
    assert labels.dtype == np.int64


@given(count=st.integers(1, 40), batch_size=st.integers(1, 12), drop_last=st.booleans(), shuffle=st.booleans())
@settings(max_examples=40, deadline=None)
def test_an_epoch_holds_every_example_once(count, batch_size, drop_last, shuffle):
    loader = data.DataLoader(numbered(count), batch_size, shuffle=shuffle, drop_last=drop_last, seed=1)
    batches = labels_of(loader)
    assert len(batches) == len(loader)
    seen = [label for batch in batches for label in batch]
    assert len(set(seen)) == len(seen)
    assert len(seen) == (count // batch_size * batch_size if drop_last else count)
    if not shuffle:
        assert seen == list(range(len(seen)))


def test_the_order_depends_on_seed_and_epoch_alone():
    first, second = (data.DataLoader(numbered(50), 8, shuffle=True, seed=3) for _ in range(2))
    epochs = [labels_of(first) for _ in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    second.epoch = 2
    assert labels_of(second) == epochs[2]
    second.epoch, second.skip = 1, 3
    assert labels_of(second) == epochs[1][3:]


def test_a_seed_of_the_library_repeats_loader_and_split():
    def draw():
        rv.seed(7)
        part, _ = data.random_split(numbered(30), [0.5, 0.5])
        return labels_of(data.DataLoader(part, 4, shuffle=True))

    assert draw() == draw()


@pytest.mark.slow
def test_workers_give_the_batches_that_one_process_gives():
    loaders = [
        data.DataLoader(numbered(37), 5, shuffle=True, augment=data.GaussianNoise(0.1), num_workers=n, seed=5)
        for n in (0, 2)
    ]
    for _ in range(2):
        for one, two in zip(*loaders, strict=True):
            for a, b in zip(one, two):
                np.testing.assert_array_equal(a.numpy(), b.numpy())
    loaders[1].close()


@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=60), first=st.floats(0.1, 0.9))
@settings(max_examples=40, deadline=None)
def test_stratified_parts_keep_every_labels_share(labels, first):
    labels = np.array(labels)
    parts = data.random_split(data.ArrayDataset(labels), [first, 1 - first], stratify=labels)
    assert sorted(np.concatenate([p.indices for p in parts]).tolist()) == list(range(len(labels)))
    for label in np.unique(labels):
        wanted = first * (labels == label).sum()
        assert abs((labels[parts[0].indices] == label).sum() - wanted) <= 2


@pytest.mark.parametrize("lengths", [[3, 3], [0.5, 0.2], [-1, 11]])
def test_a_split_that_does_not_add_up_is_refused(lengths):
    with pytest.raises(ValueError, match="random_split: expected lengths"):
        data.random_split(numbered(10), lengths)


def test_augmentations_keep_shape_and_do_what_they_say():
    images = np.random.default_rng(0).random((20, 1, 6, 6), dtype=np.float32)
    rng = np.random.default_rng(1)
    flipped = data.RandomHorizontalFlip(1.0)(images, rng)
    np.testing.assert_array_equal(flipped, images[..., ::-1])
    np.testing.assert_array_equal(data.RandomHorizontalFlip(0.0)(images, rng), images)
    shifted = data.RandomShift(2)(images, rng)
    assert shifted.shape == images.shape
    for before, after in zip(images[:, 0], shifted[:, 0]):
        moved = [np.pad(before, 2)[i : i + 6, j : j + 6] for i in range(5) for j in range(5)]
        assert any(np.array_equal(after, candidate) for candidate in moved)
    assert data.RandomCrop(4)(images, rng).shape == (20, 1, 4, 4)
    noisy = data.Compose(data.GaussianNoise(0.5), data.RandomHorizontalFlip())(images, rng)
    assert noisy.dtype == np.float32
    assert abs(data.GaussianNoise(0.5)(np.zeros((50, 1, 20, 20), "f4"), rng).std() - 0.5) < 0.01


def test_normalize_uses_the_statistics_of_what_it_saw():
    x = np.random.default_rng(0).normal(3, 2, (50, 2, 4, 4)).astype(np.float32)
    x[:, 1] = 7  # a constant channel must not divide by zero
    z = data.Normalize.fit(x)(x)
    assert abs(z[:, 0].mean()) < 1e-5
    assert abs(z[:, 0].std() - 1) < 1e-5
    np.testing.assert_allclose(z[:, 1], 0, atol=1e-6)


def write_idx(path, array, code, opener=open):
    with opener(path, "wb") as file:
        file.write(bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape))
        file.write(array.astype(array.dtype.newbyteorder(">")).tobytes())


@pytest.mark.parametrize(("dtype", "code"), [("u1", 8), ("i1", 9), ("i2", 11), ("i4", 12), ("f4", 13), ("f8", 14)])
@pytest.mark.parametrize(("suffix", "opener"), [("", open), (".gz", gzip.open)])
def test_idx_comes_back_as_written(tmp_path, dtype, code, suffix, opener):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    write_idx(tmp_path / f"a{suffix}", array, code, opener)
    np.testing.assert_array_equal(data.read_idx(tmp_path / f"a{suffix}"), array)


def test_damaged_idx_is_refused(tmp_path):
    write_idx(tmp_path / "a", np.arange(24, dtype="u1"), 8)
    whole = (tmp_path / "a").read_bytes()
    (tmp_path / "short").write_bytes(whole[:-1])
    (tmp_path / "other").write_bytes(b"PNG" + whole)
    with pytest.raises(ValueError, match="read_idx: expected 24 bytes"):
        data.read_idx(tmp_path / "short")
    with pytest.raises(ValueError, match="read_idx: expected an IDX file"):
        data.read_idx(tmp_path / "other")


def test_csv(tmp_path):
    (tmp_path / "a.csv").write_text('height,"weight, kg",class\n1,2,0\n3,4.5,1\n')
    x, y = data.read_csv(tmp_path / "a.csv", target="class")
    np.testing.assert_array_equal(x, [[1, 2], [3, 4.5]])
    np.testing.assert_array_equal(y, [0, 1])
    np.testing.assert_array_equal(data.read_csv(tmp_path / "a.csv")[0][:, 1], [2, 4.5])
    assert data.read_csv_header(tmp_path / "a.csv") == ["height", "weight, kg", "class"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,x\n", "row 2, column 'b'.*'x'"),
        ("a,b\n1,2\n3,\n", "row 3, column 'b'"),
        ("a,b\n1,nan\n", "row 2, column 'b'"),
        ("a,b\n1\n", "2 cells in row 2"),
    ],
)
def test_bad_csv_is_refused_with_its_place(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=f"read_csv: expected .*{message}"):
        data.read_csv(tmp_path / "a.csv")


def test_image_folder(tmp_path):
    from PIL import Image

    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (tmp_path / name).mkdir()
        Image.new("RGB", (6, 4), colour).save(tmp_path / name / "1.png")
    folder = data.ImageFolder(tmp_path, size=(8, 10))
    assert folder.classes == ["blue", "red"]
    images, labels = next(iter(data.DataLoader(folder, 2)))
    assert images.shape == (2, 3, 8, 10)
    np.testing.assert_array_equal(labels.numpy(), [0, 1])
    np.testing.assert_array_equal(images.numpy()[:, :, 0, 0], [[0, 0, 1], [1, 0, 0]])
    assert data.ImageFolder(tmp_path, grayscale=True)[0][0].shape == (1, 4, 6)
    with pytest.raises(ValueError, match="ImageFolder: expected images"):
        data.ImageFolder(tmp_path / "red")


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_an_image_file_becomes_numbers_between_0_and_1(tmp_path, name):
    from PIL import Image

    Image.new("RGB", (6, 4), (255, 51, 0)).save(tmp_path / name)
    image = data.read_image(tmp_path / name)
    assert image.shape == (3, 4, 6)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[:, 0, 0], [1, 0.2, 0], atol=0.02)  # JPEG is not exact
    assert data.read_image(tmp_path / name, size=(8, 10), grayscale=True).shape == (1, 8, 10)


def test_what_is_transparent_in_an_image_counts_as_white(tmp_path):
    from PIL import Image

    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(data.read_image(tmp_path / "a.png", grayscale=True), [[[1, 0]]])


def test_what_is_no_image_is_refused(tmp_path):
    from PIL import Image

    Image.new("L", (60, 60)).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("no image")
    for name in ("half.png", "text.png"):
        with pytest.raises(ValueError, match=f"read_image: expected an image .*{name}"):
            data.read_image(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        data.read_image(tmp_path / "nowhere.png")


@pytest.mark.parametrize("turned", [False, True])
def test_a_drawing_is_cut_out_and_put_bright_into_the_middle(tmp_path, turned):
    from PIL import Image

    paper = np.full((60, 90), 230, np.uint8)
    paper[10:50, 60:70] = 20  # a stroke at the right, four times as high as wide
    Image.fromarray(255 - paper if turned else paper).save(tmp_path / "stroke.png")
    (drawing,) = data.read_drawing(tmp_path / "stroke.png", size=28, margin=4)
    assert drawing.dtype == np.float32
    wanted = np.zeros((28, 28))
    wanted[4:24, 12:17] = 1
    np.testing.assert_allclose(drawing, wanted, atol=0.01)


def test_digits_written_on_paper_are_read_as_the_data_has_them(tmp_path):
    from PIL import Image

    images, _ = data.load_digits()
    differences = []
    for image in images[:50, 0]:
        paper = np.pad(255 - (image * 255).astype(np.uint8), 3, constant_values=255)
        Image.fromarray(paper).resize((280, 280), Image.Resampling.NEAREST).save(tmp_path / "digit.png")
        (drawing,) = data.read_drawing(tmp_path / "digit.png", size=8)
        differences.append(np.abs(drawing - image).mean())
    assert np.mean(differences) < 0.1  # between different digits it is 0.3


def test_an_empty_sheet_is_no_drawing(tmp_path):
    from PIL import Image

    Image.new("L", (30, 30), 250).save(tmp_path / "empty.png")
    with pytest.raises(ValueError, match="read_drawing: expected something drawn"):
        data.read_drawing(tmp_path / "empty.png", size=8)


def test_missing_fashion_files_say_what_brings_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion-mnist"):
        data.load_fashion_mnist(tmp_path)


def test_examples_by_index():
    images, label = numbered(5)[-1]
    assert label == 4
    assert images.shape == (1, 4, 4)
    with pytest.raises(IndexError, match=r"expected an index in \[-5, 5\)"):
        numbered(5)[5]


class Squares(data.Dataset):
    def __len__(self):
        return 7

    def __getitem__(self, index):
        return np.float32(index) ** 2, index


@pytest.mark.parametrize("source", [Squares(), [(np.float32(i) ** 2, i) for i in range(7)]], ids=["dataset", "list"])
def test_examples_by_number_become_batches(source):
    part = data.Subset(source, [6, 1, 3])
    assert [[x.tolist() for x in batch] for batch in data.DataLoader(part, 2)] == [[[36, 1], [6, 1]], [[9], [3]]]
    (batch,) = data.DataLoader(np.eye(3, dtype="f4"), 3)
    assert len(batch) == 1
    assert batch[0].shape == (3, 3)


def test_datasets_that_give_no_batches_are_refused():
    class Empty(data.Dataset):
        def __len__(self):
            return 2

    with pytest.raises(TypeError, match=r"Empty: expected a subclass that defines __getitem__\(\) or fetch\(\)"):
        Empty()[0]
    with pytest.raises(TypeError, match=r"dataset: expected a Dataset, .* got generator"):
        data.DataLoader(i for i in range(3))
    with pytest.raises(ValueError, match=r"expected examples of one shape, got \(1,\), \(2,\) in one batch"):
        next(iter(data.DataLoader([np.ones(1), np.ones(2)], 2)))
