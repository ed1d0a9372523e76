"""What a comparison of image tokenizers says, as a table and in sentences."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokjax.measure.statistics import MISSING, Estimate, interval, rows_by_system, with_interval
from tokjax.report.sentences import budget
from tokjax.report.table import Cells, Column, fill, grid
from tokjax.report.units import fixed, plural

if TYPE_CHECKING:
    import rich.table

_OF_POINTS = (
    "nominal_bits", "coded_bits", "psnr", "ssim", "squared_error", "frechet", "kernel", "codes_used", "perplexity",
)  # fmt: skip
_OF_RUNS = ("params", "train_flops", "flops_per_image", "train_images", "seconds")


def labels(results: Mapping[str, Any]) -> Mapping[str, str]:
    """Returns what the distances of `results` are called: `frechet` and `kernel`, with what looked at the images."""
    return results["rows"][0]["labels"]


def columns(results: Mapping[str, Any]) -> tuple[Column, ...]:
    """Returns the columns of the table of all codes."""
    return (
        Column("system", "the recipe and its changes, as named on the command line", "system", "text"),
        *_rate_columns(results),
        Column("used", "share of the codes that occur in the test images", "codes_used", "percent", "%"),
        Column("params", "numbers that training adjusts", "params", "si"),
        Column("forward", "floating-point operations of one image in training, forward", "flops_per_image", "si",
               "FLOP"),
        Column("train", "floating-point operations of training, forward and backward", "train_flops", "si", "FLOP"),
        Column("time", "spent on training steps", "seconds", "time"),
    )  # fmt: skip


def _rate_columns(results: Mapping[str, Any]) -> tuple[Column, ...]:
    distance = labels(results)["frechet"]
    return (
        Column("codes", "of an image, and how many there are to choose from", "codes", "text"),
        Column("bits", "of an image, all codes equally likely: what they cost in a fixed number of bits",
               "nominal_bits", "interval", decimals=0),
        Column("coded bits", "of an image, its codes coded by how often each occurs in the test images, learned on the"
               " way: mean over seeds ± half width of the 95 % interval", "coded_bits", "interval", decimals=1),
        Column("PSNR", "peak signal-to-noise ratio of the test images, mean of images; higher is better",
               "psnr", "interval", "dB", decimals=2),
        Column("SSIM", "structural similarity of the test images; higher is better, 1 is equal", "ssim", "interval"),
        Column(distance.replace("(", " (").replace("_", " "),
               f"{distance}: Fréchet distance of the reconstructions from the test images, in the features named;"
               " lower is better. It compares only with numbers of the same features and images",
               "frechet", "interval", decimals=2),
    )  # fmt: skip


def length_columns(results: Mapping[str, Any]) -> tuple[Column, ...]:
    """Returns the columns of the table of every number of codes."""
    return (columns(results)[0], *_rate_columns(results))


def points(results: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Returns the curve of each system, in ascending order of codes: names, and an `Estimate` over seeds per number."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for system, rows in rows_by_system(results).items():
        curves[system] = [
            {
                "system": system,
                "tokens": seeds[0]["tokens"],
                "codes": f"{seeds[0]['tokens']:,} of {rows[0]['vocab_size']:,}",
                **{name: _estimate([seed.get(name) for seed in seeds]) for name in _OF_POINTS},
            }
            for seeds in zip(*(row["points"] for row in rows), strict=True)
        ]
    return curves


def _estimate(values: Sequence[float | None]) -> Estimate:
    """Returns mean and interval; a number that does not depend on the seed has none."""
    found = interval(values)
    return found._replace(half_width=None) if len(set(values)) == 1 else found


def summary(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns one dict per system: the end of its curve, and an `Estimate` of each number of its runs."""
    groups = rows_by_system(results)
    return [
        curve[-1] | {name: _estimate([row.get(name) for row in groups[system]]) for name in _OF_RUNS}
        for system, curve in points(results).items()
    ]


def cells(results: Mapping[str, Any]) -> Cells:
    """Returns the table of all codes as text. No row is best: that depends on the bits there are."""
    return fill(columns(results), summary(results))


def length_cells(results: Mapping[str, Any]) -> Cells:
    """Returns the table of every number of codes as text."""
    entries = [entry for curve in points(results).values() for entry in curve]
    return fill(length_columns(results), entries)


def terminal_table(results: Mapping[str, Any]) -> "rich.table.Table":
    """Returns the comparison as a rich table, the headline below."""
    left_out = ("ssim", "flops_per_image", "train_flops", "seconds")  # a terminal is narrow; the page has them
    shown = [column for column in columns(results) if column.key not in left_out]
    return grid(shown, fill(shown, summary(results)), headline(results))


def headline(results: Mapping[str, Any]) -> str:
    """Returns which system keeps most, at how many bits, and which points no other point beats."""
    return " ".join(filter(None, (lead(results), frontier(results))))


def lead(results: Mapping[str, Any]) -> str:
    """Returns the sentence that names the point with the highest PSNR, with its bits."""
    known = _known(results)
    if not known:
        return "No tokenizer reached a finite PSNR."
    best = max(known, key=lambda entry: entry["psnr"].mean)
    return (
        f"{best['system']} has the highest PSNR after {budget(results)}: {with_interval(best['psnr'], '.2f')} dB with"
        f" {plural(best['tokens'], 'code')}, {with_interval(best['coded_bits'], '.1f')} coded bits per image."
    )


def frontier(results: Mapping[str, Any]) -> str:
    """Returns the sentence that says what may be had for fewer bits, and what another one beats in both."""
    known = _known(results)
    kept = efficient(known)
    if len(known) < 2:
        return ""
    names = list(dict.fromkeys(entry["system"] for entry in known))
    best = max(known, key=lambda entry: entry["psnr"].mean)
    fewer = [entry for entry in kept if entry["system"] != best["system"]]
    fewer.sort(key=lambda entry: entry["psnr"].mean)
    ends = {entry["system"]: entry for entry in fewer}  # the last, and so best, point of each
    said = [
        f"{name} has {fixed(end['psnr'].mean, 2)} dB with {fixed(end['coded_bits'].mean, 1)}"
        for name, end in sorted(ends.items(), key=lambda item: -item[1]["psnr"].mean)
    ]
    beaten = [name for name in names if name not in {entry["system"] for entry in kept}]
    sentences = [f"With fewer coded bits, {'; '.join(said)}."] if said else []
    if beaten:
        sentences.append(f"Another has both fewer coded bits and a higher PSNR than {', '.join(beaten)}.")
    seeds = min(len(rows) for rows in rows_by_system(results).values())
    doubt = "One seed does not tell whether that is more than chance."
    means = f"This goes by means over {plural(seeds, 'seed')}; intervals are in the table."
    return " ".join([*sentences, doubt if seeds == 1 else means])


def efficient(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the points that no other beats: none has a higher mean PSNR with as few mean coded bits, or fewer."""

    def beats(other: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
        bits, more = other["coded_bits"].mean - entry["coded_bits"].mean, other["psnr"].mean - entry["psnr"].mean
        return bits <= 0 <= more and (bits, more) != (0, 0)

    return [entry for entry in entries if not any(beats(other, entry) for other in entries)]


def _known(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The points of all systems that have numbers."""
    entries = [entry for curve in points(results).values() for entry in curve]
    return [entry for entry in entries if None not in (entry["psnr"].mean, entry["coded_bits"].mean)]


def decibels(value: float | None) -> str:
    """Returns a PSNR for a caption; equal images have none that is finite."""
    return MISSING if value is None else f"{value:.1f} dB"
