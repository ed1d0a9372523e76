"""The report of image tokenizers: a page that needs nothing but itself, curves that hold the rows, every image."""

import html.parser
import io
import math
import re

import pytest
from rich.console import Console
from synthetic_images import SYSTEMS, build_results

from tokjax import report
from tokjax.measure.statistics import interval
from tokjax.report.images import page
from tokjax.report.images_plots import figures, rate_figure
from tokjax.report.images_table import columns, efficient, headline, length_cells, points, summary
from tokjax.report.plots import THEMES, render

NAMES = ["psnr_bits", "distance_bits", "sweep"]
LOADS = ("src", "srcset", "href", "data", "poster", "action", "background")


class Reader(html.parser.HTMLParser):
    """Collects what a browser would load and run, and the images of the grid."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.tags, self.images = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.loads += [value for name, value in attributes.items() if name in LOADS]
        assert not [name for name in attributes if name.startswith("on")]
        if attributes.get("src", "").startswith("data:image/png"):
            self.images.append(attributes)


@pytest.fixture(scope="module")
def text():
    return page(build_results())


def test_the_page_loads_nothing(text):
    read = Reader(text)
    assert all(load.startswith(("data:image/svg+xml;base64,", "data:image/png;base64,")) for load in read.loads)
    assert not re.search(r"@import|url\(", text)
    assert not set(read.tags) & {"link", "iframe", "object", "embed", "base"}
    assert read.tags.count("script") == 1 and "default-src 'none'" in text


def test_the_grid_holds_every_image_in_its_place(text):
    """Rows are test images; columns the original and each tokenizer at each of its lengths."""
    examples, shown = build_results()["examples"], iter(Reader(text).images)
    for number, original in enumerate(examples["originals"]):
        assert next(shown)["src"].endswith(original)
        for system, entries in examples["systems"].items():
            for entry in entries:
                found = next(shown)
                assert found["src"].endswith(entry["images"][number])
                codes = f"{entry['tokens']} code{'s' if entry['tokens'] > 1 else ''}"
                assert found["alt"] == f"test image {number + 1} by {system} with {codes}"
                assert int(found["width"]) % 16 == 0  # magnified a whole number of times
    assert next(shown, None) is None


def test_captions_give_bits_and_psnr(text):
    results = build_results()
    assert "<small>10 bits</small>" in text and "<small>144 bits</small>" in text
    for entry in points(results)["flextok"]:
        assert f"<small>{entry['coded_bits'].mean:.1f} coded</small>" in text
    assert "<small>21.0 dB</small>" in text


def test_distances_carry_the_name_of_their_features(text):
    assert "FD(random_pyramid)" in text
    assert not re.search(r"\bFID\b", text)


def test_text_of_every_field_is_escaped():
    evil = '"><script>alert(1)</script>&'
    results = build_results(("vqgan",))
    results["settings"]["source"] = results["settings"]["learning_rate_rule"] = results["environment"]["device"] = evil
    for row in [*results["rows"], *results["sweep"]]:
        row["system"] = evil
    results["examples"]["systems"] = {evil: results["examples"]["systems"]["vqgan"]}
    results["examples"]["originals"][0] = evil
    assert Reader(page(results)).tags.count("script") == 1


def test_the_same_results_give_the_same_page(text):
    assert page(build_results()) == text


def test_curves_hold_the_means_of_the_rows():
    results = build_results()
    left, right = rate_figure(results, THEMES["light"], "psnr", "PSNR, dB").axes
    for axes, rate in ((left, "nominal_bits"), (right, "coded_bits")):
        for (line, _, bars), (system, curve) in zip(
            [container.lines for container in axes.containers], points(results).items(), strict=True
        ):
            rows = [row for row in results["rows"] if row["system"] == system]
            for index, (x, y) in enumerate(line.get_xydata()):
                seeds = [row["points"][index] for row in rows]
                assert x == pytest.approx(sum(seed[rate] for seed in seeds) / len(seeds))
                assert y == pytest.approx(sum(seed["psnr"] for seed in seeds) / len(seeds))
                low, high = bars[1].get_segments()[index][:, 1]
                half = interval([seed["psnr"] for seed in seeds]).half_width
                assert (high - low) / 2 == pytest.approx(half)
            assert len(line.get_xydata()) == len(curve) == len(SYSTEMS[system][0])


def test_curves_ascend_and_the_table_shows_their_ends():
    results = build_results()
    for entry, (system, curve) in zip(summary(results), points(results).items(), strict=True):
        assert [point["tokens"] for point in curve] == sorted({point["tokens"] for point in curve})
        assert (entry["system"], entry["tokens"], entry["psnr"]) == (system, SYSTEMS[system][0][-1], curve[-1]["psnr"])
    assert len(length_cells(results).rows) == sum(len(lengths) for lengths, _, _ in SYSTEMS.values())


def test_what_no_point_beats():
    def entry(bits, psnr):
        return {"coded_bits": interval([bits]), "psnr": interval([psnr])}

    good, worse, cheap, twin = entry(100, 20), entry(120, 19), entry(10, 12), entry(100, 20)
    assert efficient([good, worse, cheap]) == [good, cheap]
    assert efficient([good, twin]) == [good, twin]  # equal points do not beat each other


def test_the_headline_names_who_is_beaten_and_does_not_claim_from_one_seed():
    text = headline(build_results())
    assert text.startswith("vqgan/quantizer=fsq:levels=8,5,5,5/code_width=4 has the highest PSNR after 1 TFLOP")
    assert "means over 3 seeds" in text
    assert "One seed does not tell" in headline(build_results(seeds=1))
    beaten = build_results(("vqgan", "titok"))
    for row in beaten["rows"]:
        if row["system"] == "titok":
            row["points"][0]["coded_bits"] = 1e3
    assert "higher PSNR than titok." in headline(beaten)
    assert "With fewer coded bits" not in headline(beaten)


def test_the_table_fits_a_terminal_and_its_numbers_are_the_means():
    results = build_results(("vqgan", "titok", "flextok"))
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(report.terminal_images_table(results))
    shown = console.file.getvalue()
    for entry in summary(results):
        line = next(line for line in shown.splitlines() if line.split()[:1] == [entry["system"]])
        assert f"{entry['psnr'].mean:.2f} ± " in line and f" {entry['nominal_bits'].mean:.0f} " in line
    assert "±" not in {column.heading for column in columns(results)}


@pytest.mark.parametrize("missing", [None, math.nan])
def test_numbers_that_are_missing(missing):
    results = build_results(("vqgan", "titok"), seeds=2)
    for row in results["rows"]:
        for point in row["points"]:
            point["ssim"] = missing
            if row["system"] == "vqgan":
                point["psnr"] = point["frechet"] = missing
    results["sweep"][0]["squared_error"] = None
    assert "titok has the highest PSNR" in page(results)
    results["examples"]["systems"]["vqgan"][0]["psnr"][0] = None  # equal images
    assert "<small>–</small>" in page(results)


def test_plots_without_data_are_left_out():
    results = build_results(("vqgan",))
    results["sweep"] = []
    assert list(figures(results)) == NAMES[:2]
    for row in results["rows"]:
        row["points"][0]["psnr"] = None
    assert list(figures(results)) == ["distance_bits"]


@pytest.mark.parametrize("theme", THEMES)
def test_names_of_any_length_fit_below_the_plots(theme):
    for figure in figures(build_results(), theme).values():
        render(figure, "png")
        (legend,) = figure.legends
        box, paper = legend.get_window_extent(), figure.bbox
        assert paper.x0 <= box.x0 and box.x1 <= paper.x1
        assert all(axes.bbox.height > 0.4 * paper.height for axes in figure.axes)


def test_write_makes_the_page_and_the_plots_and_nothing_else(tmp_path):
    path = report.write(build_results(), tmp_path / "new")
    assert path.read_text().startswith("<!doctype html>")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == sorted(["report.html", *(f"{n}.png" for n in NAMES)])
