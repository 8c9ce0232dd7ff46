"""The roofline picture: everything that was measured is in it, where it belongs, and can be read."""

import itertools
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.text import Text
from records import record, row

from ranvier.profiling import roofline

TEXT = "{http://www.w3.org/2000/svg}text"


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()).strip() for element in ET.fromstring(svg).iter(TEXT)]


def test_both_files_are_written_under_either_name(tmp_path):
    made = record(row(), row(variant="pytorch", median=2e-3))
    for name in ("picture", "picture.png", "picture.svg", "v1.2"):
        paths = roofline.save(made, tmp_path / name)
        stem = name.removesuffix(".png").removesuffix(".svg")
        assert paths == [tmp_path / f"{stem}.png", tmp_path / f"{stem}.svg"]
        assert paths[0].read_bytes().startswith(b"\x89PNG")
        ET.parse(paths[1])


def test_ceilings_cases_variants_device_and_date_are_written_in_the_picture():
    found = texts(
        roofline.svg(record(row(), row(variant="pytorch", median=0.5e-3), row("lstm", "speech", median=1e-2)))
    )
    for expected in (
        "copy 10 GB/s",
        "float32 products 100 GFLOP/s",
        "conv2d block forward",
        "lstm speech forward",
        "ranvier",
        "pytorch",
        "0.50x",  # the peer takes half the time
        "10%",  # 10 MFLOP in 1 ms, and the ceiling allows 100 GFLOP/s
    ):
        assert expected in found, expected
    assert any("Test & Co <processor>, 2 threads" in text for text in found)
    assert any("2026-01-02" in text for text in found)
    assert any("FLOP a byte" in text for text in found)


def dots(figure) -> np.ndarray:
    return np.concatenate([points.get_offsets() for points in figure.axes[0].collections])


def test_a_dot_stands_at_its_intensity_and_rate():
    figure = roofline._draw(record(row(median=2e-3), row(variant="numpy", median=4e-3)))
    np.testing.assert_allclose(dots(figure), [[10, 5e9], [10, 2.5e9]])
    slope, horizontal = figure.axes[0].lines[1], figure.axes[0].lines[0]
    np.testing.assert_allclose(slope.get_ydata(), 1e10 * slope.get_xdata())
    np.testing.assert_allclose(horizontal.get_ydata(), 1e11)
    assert horizontal.get_xdata()[0] == pytest.approx(10)  # the ridge: 100 GFLOP/s at 10 GB/s


def test_numbers_do_not_cover_one_another_or_a_dot():
    crowd = [row(case=f"case {i}", median=1e-3 * (1 + 0.02 * i)) for i in range(12)]
    figure = roofline._draw(record(*crowd))
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    numbers = [note for note in figure.axes[0].texts if note.get_text().isdigit()]
    boxes = [Text.get_window_extent(note, renderer) for note in numbers]
    assert [note.get_text() for note in numbers] == [str(i) for i in range(1, 13)]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    centres = figure.axes[0].transData.transform(dots(figure))
    assert not any(box.contains(*centre) for box in boxes for centre in centres)


def test_rows_without_arithmetic_are_left_out_and_alone_refused():
    with_none = record(row(), row("copy", flops=0), row("sgd", flops=None))
    assert len(dots(roofline._draw(with_none))) == 1
    nothing = record(row(flops=0), row(flops=None), row(bytes=None))
    assert not roofline.drawable(nothing)
    with pytest.raises(ValueError, match="roofline: expected rows whose operations and bytes are counted"):
        roofline.svg(nothing)


def test_without_ceilings_there_are_dots_only():
    made = record(row())
    made.run["ceilings"] = {}
    figure = roofline._draw(made)
    assert len(dots(figure)) == 1
    assert len(figure.axes[0].lines) == 1  # what joins a case's dots


def test_of_very_many_cases_the_longest_are_numbered():
    many = [row(case=f"case {i}", median=1e-3 * (i + 1), flops=1000 * (i + 1) ** 2) for i in range(100)]
    found = texts(roofline.svg(record(*many)))
    assert "The 90 longest-running of 100 are numbered." in found
    assert "conv2d case 99 forward" in found
    assert "conv2d case 9 forward" not in found
