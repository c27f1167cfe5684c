"""Figures: every file of flare/figures is drawn on several made-up sweeps and must be fit for a paper."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from synthetic import write_labels, write_run, write_sweep, write_trials

from flare import algorithms, figures
from flare.analysis import tables
from flare.errors import ConfigError, DataError
from flare.figures.style import looks as style

FIVE = ("1e-1", "1e-2", "1e-3", "1e-4", "1e-5")
SWEEPS = {
    "one-keep": {"keeps": ["1e-2"], "methods": ["topk", "flare"], "seeds": [1]},
    "two-keeps": {},
    "three-keeps": {"keeps": FIVE[:3], "methods": ["fedavg", "mine", "another_one_with_a_long_name"]},
    "five-keeps-six-methods": {"keeps": FIVE, "methods": ("fedavg", "topk", "flare", "fedprox", "ef21", "ffl")},
    "ten-keeps": {"keeps": ["1", *(f"0.{tenth}" for tenth in range(9, 1, -1)), "1e-1"], "methods": ["topk"]},
    "local-epochs": {"local_epochs": [1, 4, 16], "keeps": FIVE[:2], "seeds": [1, 2]},
    "diverged": {
        "diverged": {("flare", "1e-2", 2): 26, ("topk", "1e-3", 1): 3, ("topk", "1e-3", 2): 0, ("topk", "1e-3", 3): 50}
    },
    "all-diverged": {"methods": ["topk"], "keeps": ["1e-2"], "seeds": [1], "diverged": {("topk", "1e-2", 1): 0}},
    "dense-only": {"methods": ["fedavg"]},
    "dense-and-sparse": {"methods": ["fedavg", "fedprox"], "keeps": ["dense", "1e-2"]},
    "five-answer": {"available": 5, "family": "two-keeps", "seeds": [1, 2], "diverged": {("topk", "1e-3", 2): 20}},
    "two-answer": {"available": 2, "family": "two-keeps", "seeds": [1, 2], "keeps": ["1e-2"]},
}
# What is measured and asked for in some sweeps only.
ONLY = {
    "accuracy_by_available": ["two-keeps"],
    "accuracy_by_local_epochs": ["local-epochs"],
    "compute_cost": ["two-keeps", "local-epochs"],  # drawn as accuracy_by_keep is
    "labels": [*SWEEPS][:4],
    "staleness": [name for name in (*SWEEPS, "three-rounds") if not name.endswith("-answer")],
    "tuning": ["two-keeps", "diverged"],
    "importance": ["diverged"],
}
# One sweep for each figure.
SAMPLE = {"tuning": "two-keeps", "importance": "diverged"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with the tables of all sweeps, and of one of three rounds only."""
    folder = tmp_path_factory.mktemp("results")
    runs = [
        run
        for name, sweep in SWEEPS.items()
        for run in write_sweep(folder, experiment=name, staleness=name in ONLY["staleness"], **sweep)
    ]
    runs += [
        write_run(folder, experiment="three-rounds", seed=seed, evaluated=range(3), staleness=True) for seed in (1, 2)
    ]
    tables.tabulate(runs, folder / "tables")
    for number, name in enumerate((*SWEEPS, "three-rounds")):
        write_labels(folder / "tables", name, clients=(10, 1, 4, 100)[number % 4], classes=(10, 86)[number % 5 == 3])
    values = {"tau": [1e-3, 0.5, 0.1, 0.013], "pull_steps": [1, "all", 2, 1]}
    write_trials(folder / "tables", "two-keeps", {"flare": {"tau": values["tau"]}})
    write_trials(folder / "tables", "diverged", {"flare": values, "topk": {"learning_rate": [0.1, 0.2, 0.05, 0.15]}})
    return folder


def pairs(names: list[str]) -> list[tuple[str, str]]:
    """The sweeps and the figures that are drawn of them."""
    every = itertools.product(ONLY["staleness"], names)
    return [(sweep, name) for sweep, name in every if sweep in ONLY.get(name, [sweep])]


@pytest.fixture(scope="module")
def drawn(results: Path) -> dict[tuple[str, str], Figure]:
    """Every figure of every sweep, laid out."""
    out = {}
    for sweep, name in pairs(figures.names()):
        figure = figures.draw(name, tables.read(results / "tables", sweep))
        FigureCanvasAgg(figure)
        out[sweep, name] = figure
    return out


ACCURACY = [name for name in figures.names() if name.startswith("accuracy")]
every_figure, every_accuracy = (
    pytest.mark.parametrize(("sweep", "name"), pairs(names)) for names in (figures.names(), ACCURACY)
)


def texts(figure: Figure) -> list[Text]:
    """All that is to be read in the figure."""
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    # matplotlib keeps ticks beyond the limits of the axis, and does not draw them.
    hidden = set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                inside = low - 1e-9 * abs(low) <= tick.get_loc() <= high + 1e-9 * abs(high)
                shown = ((tick.label1, tick.label1.get_visible() and inside), (tick.label2, False))
                hidden |= {id(label) for label, is_shown in shown if not is_shown}
    return [text for text in found if id(text) not in hidden]


def overlap(one: Bbox, other: Bbox) -> bool:
    both = Bbox.intersection(one, other)
    return both is not None and both.width > 0.5 and both.height > 0.5


def lines_of(ax: Axes, color: str, linestyle: str = "-") -> list[Line2D]:
    return [line for line in ax.lines if line.get_color() == color and line.get_linestyle() == linestyle]


def crosses(ax: Axes) -> list[Line2D]:
    return [line for line in ax.lines if line.get_marker() == "x"]


def bars(figure: Figure) -> list[Axes]:
    """The axes that are colour bars."""
    return [ax for ax in figure.axes if hasattr(ax, "_colorbar")]


def entries(figure: Figure) -> dict[str, Line2D]:
    """The legend's entries, without those that only fill a row."""
    (legend,) = figure.legends
    named = zip(legend.get_texts(), legend.legend_handles, strict=True)
    found = [(text.get_text(), handle) for text, handle in named if text.get_text().strip()]
    assert len(dict(found)) == len(found)
    return dict(found)


def check_size(figure: Figure) -> None:
    width, height = figure.get_size_inches()
    assert width in (3.5, 5.5)
    assert height <= 9


def check_text(figure: Figure) -> None:
    shown = texts(figure)
    assert shown
    assert min(text.get_fontsize() for text in shown) >= 7
    # Raised and lowered mathematics is set smaller than the font.
    assert not [text.get_text() for text in shown if "^" in text.get_text() or "$" in text.get_text()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown]
    edge = figure.bbox
    for text, box in boxes:
        assert edge.x0 - 1 <= box.x0 and box.x1 <= edge.x1 + 1, f"{text!r} leaves the figure"
        assert edge.y0 - 1 <= box.y0 and box.y1 <= edge.y1 + 1, f"{text!r} leaves the figure"
    for (text, box), (other, its) in itertools.combinations(boxes, 2):
        assert not overlap(box, its), f"{text!r} overlaps {other!r}"


def test_figures_are_found_by_listing_the_folder() -> None:
    folder = Path(figures.__file__).parent
    assert figures.names() == sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    assert {"accuracy_by_keep", "accuracy_by_round", "accuracy_by_uplink"} <= set(figures.names())


def test_a_figure_that_needs_what_was_not_asked_for_is_not_drawn(tmp_path: Path) -> None:
    plain = {"methods": {"topk": {}, "flare": {"tau": 0.1}}, "keep": ["1e-2"], "local_epochs": [1], "clients": 10}
    asked = {
        "plain": plain,
        "again": {**plain, "staleness": True},
        "more": {**plain, "local_epochs": [1, 4], "available": 7},
        "fewer": {**plain, "available": 5},
        "fewest": {**plain, "available": 3},
        "tuned": {**plain, "clients": 9, "methods": {"flare": {"tau": {"log": [1e-3, 1]}}}},
    }
    always = [name for name in figures.names() if figures.needs(name) is None]
    assert always
    found = {name: sorted({*figures.of({"experiments": asked}, name)} - {*always}) for name in asked}
    assert found == {
        "plain": ["accuracy_by_available"],
        "again": ["staleness"],
        "more": ["accuracy_by_local_epochs"],
        "fewer": [],
        "fewest": [],
        "tuned": ["tuning"],
    }


def test_figures_that_the_tables_allow_are_those_that_were_asked_for(results: Path) -> None:
    for sweep in ONLY["staleness"]:
        asked = [
            name for name in figures.names() if name in ("compute_cost", "labels") or (sweep, name) in pairs([name])
        ]
        if sweep == "all-diverged":  # before the first measurement
            asked.remove("staleness")
        assert figures.possible(tables.read(results / "tables", sweep)) == asked


def test_a_figure_with_a_need_of_its_own_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        '''"""Shown with its {level} interval.\n\nRead it so."""\n\nimport of_what_takes_seconds\n\n'''
        """TABLES = ("costs", "trials")\n\n\ndef needs(experiments: Mapping[str, Any], name: str) -> bool:\n"""
        '''    """Long runs."""\n    return experiments[name]["rounds"] > 10\n'''
    )
    monkeypatch.setattr(figures, "__file__", str(tmp_path / "__init__.py"))
    asked = {"experiments": {"short": {"rounds": 10}, "long": {"rounds": 11}}}
    assert (figures.of(asked, "short"), figures.of(asked, "long")) == ([], ["mine"])
    assert figures.reads("mine") == ("costs", "trials")
    assert figures.caption("mine") == "Shown with its 95 % interval."
    assert figures.caption("mine", whole=True) == "Shown with its 95 % interval. Read it so."


@pytest.mark.parametrize("name", figures.names())
def test_a_figure_says_which_tables_it_reads(results: Path, name: str) -> None:
    sweep = SAMPLE.get(name, "two-keeps")
    own = tables.read(results / "tables", sweep, figures.reads(name))
    assert set(own) == set(figures.reads(name)) < set(tables.read(results / "tables", sweep))
    figures.draw(name, own)


def test_staleness_that_was_not_measured_is_one_line(tmp_path: Path) -> None:
    tables.tabulate([write_run(tmp_path)], tmp_path / "tables")
    said = r"tables/rounds\.csv: no column staleness_mean; fashion-fc was run without staleness: true$"
    with pytest.raises(DataError, match=said):
        figures.save("staleness", tmp_path / "tables", "fashion-fc", tmp_path / "x")
    assert not list(tmp_path.glob("x*"))


def test_listing_figures_imports_nothing_heavy() -> None:
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from flare import figures; figures.names(), [figures.caption(n) for n in figures.names()];"
            "print({'matplotlib', 'pandas', 'numpy', 'torch'} & set(sys.modules))",
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(figures.__file__).parents[2],
    )
    assert said.stdout.strip() == "set()"


@pytest.mark.parametrize("name", figures.names())
def test_every_figure_has_a_caption_of_one_line(name: str) -> None:
    caption = figures.caption(name)
    assert len(caption) > 40
    assert caption.endswith(".")
    assert "\n" not in caption
    whole = figures.caption(name, whole=True)
    assert whole.startswith(f"{caption} ") and whole.endswith(".") and "\n" not in whole


@every_figure
def test_a_figure_is_as_wide_as_a_paper_wants_and_not_taller_than_a_page(
    drawn: dict[tuple[str, str], Figure], sweep: str, name: str
) -> None:
    check_size(drawn[sweep, name])


@every_figure
def test_text_is_large_enough_whole_and_apart(drawn: dict[tuple[str, str], Figure], sweep: str, name: str) -> None:
    check_text(drawn[sweep, name])


@pytest.mark.parametrize("name", figures.names())
def test_text_stays_so_when_the_figure_is_laid_out_again_to_be_saved(results: Path, name: str) -> None:
    for sweep in ONLY.get(name, ["diverged", "three-rounds"])[:2]:
        figure = figures.draw(name, tables.read(results / "tables", sweep))
        FigureCanvasAgg(figure).draw()
        check_text(figure)


@every_figure
def test_axes_are_labelled_and_the_legend_lies_outside(
    drawn: dict[tuple[str, str], Figure], sweep: str, name: str
) -> None:
    figure = drawn[sweep, name]
    panels = [ax for ax in figure.axes if ax not in bars(figure)]
    lowest = {round(ax.get_position().x0, 3): ax for ax in sorted(panels, key=lambda ax: -ax.get_position().y0)}
    leftmost = {round(ax.get_position().y0, 3): ax for ax in sorted(panels, key=lambda ax: -ax.get_position().x0)}
    assert all(ax.get_xlabel() for ax in lowest.values())
    assert all(ax.get_ylabel() for ax in (*leftmost.values(), *bars(figure)))
    # What colours mean is said by one legend or by a colour bar.
    assert len(figure.legends) == (0 if bars(figure) else 1)
    keys = [legend.get_window_extent() for legend in figure.legends] + [ax.get_tightbbox() for ax in bars(figure)]
    for box in keys:
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1
        for ax in panels:
            assert not overlap(box, ax.get_tightbbox())
    if figure.legends:
        assert any(entry.startswith("diverged") for entry in entries(figure)) == any(crosses(ax) for ax in panels)


@every_figure
def test_a_panel_that_shows_nothing_says_so(drawn: dict[tuple[str, str], Figure], sweep: str, name: str) -> None:
    for ax in drawn[sweep, name].axes:
        said = "nothing to show" in [text.get_text() for text in ax.texts]
        assert said == (not (ax.lines or ax.images or ax.collections or ax.patches))


@every_accuracy
def test_accuracies_are_percentages_and_nothing_is_drawn_as_zero(
    drawn: dict[tuple[str, str], Figure], sweep: str, name: str
) -> None:
    labelled = [ax.get_ylabel() for ax in drawn[sweep, name].axes if ax.get_ylabel()]
    assert labelled and all("accuracy (%)" in label or "accuracy so far (%)" in label for label in labelled)
    for ax in drawn[sweep, name].axes:
        low, high = ax.get_ylim()
        assert 0 <= low < high <= 100
        for line in ax.lines:
            if line.get_transform() == ax.transData:
                values = np.asarray(line.get_ydata(), dtype=float)
                assert not (values[~np.isnan(values)] <= 0).any()


@every_accuracy
def test_divergence_is_marked_exactly_where_there_is_one(
    drawn: dict[tuple[str, str], Figure], sweep: str, name: str
) -> None:
    lost = SWEEPS.get(sweep, {}).get("diverged") or name == "accuracy_by_available"  # in one of the family
    assert ("diverged run" in entries(drawn[sweep, name])) == bool(lost)


def test_curves_by_round_are_means_over_the_finished_runs(tmp_path: Path) -> None:
    common = {"keep": "1e-2", "evaluated": [0, 10]}
    runs = [
        write_run(tmp_path, seed=1, accuracies=[0.1, 0.80], **common),
        write_run(tmp_path, seed=2, accuracies=[0.2, 0.82], **common),
        write_run(tmp_path, seed=3, accuracies=[0.3, 0.87], **common),
        write_run(tmp_path, seed=4, accuracies=[0.6], diverged_round=7, **common),
    ]
    tables.tabulate(runs, tmp_path / "tables")
    (ax,) = figures.draw("accuracy_by_round", tables.read(tmp_path / "tables")).axes
    (mean,) = lines_of(ax, "#D55E00")
    assert list(mean.get_xdata()) == [0, 10]
    assert list(mean.get_ydata()) == pytest.approx([20, 83])
    # The half-width of test_tables.py's example, 8.95669 percent.
    (band,) = ax.collections
    edge = band.get_paths()[0].vertices
    assert edge[edge[:, 0] == 10, 1].max() == pytest.approx(83 + 8.95669, abs=1e-4)
    (cross,) = crosses(ax)
    assert (list(cross.get_xdata()), list(cross.get_ydata())) == ([7], pytest.approx([60]))


def test_two_seeds_are_shown_themselves_and_no_band_goes_beyond_what_can_be(tmp_path: Path) -> None:
    # Two curves as thin lines beside their mean; of three the interval, 0.9567 + 0.1014 and so on, ends at 100 %.
    for finals, bands in (((0.2, 0.8), 0), ((0.91, 0.97, 0.99), 1)):
        folder = tmp_path / str(bands)
        runs = [
            write_run(folder, seed=seed, keep="1e-2", evaluated=[0, 10], accuracies=[0.05, final])
            for seed, final in enumerate(finals)
        ]
        tables.tabulate(runs, folder / "tables")
        for name in ("accuracy_by_round", "accuracy_by_uplink", "accuracy_by_keep"):
            (ax,) = figures.draw(name, tables.read(folder / "tables")).axes
            found = [path.vertices for band in ax.collections for path in band.get_paths()]
            found = [vertices for vertices in found if len(vertices) and not np.isnan(vertices).any()]
            assert len(found) == bands, name
            assert all(0 <= y <= 100 for vertices in found for y in vertices[:, 1])
            if bands:
                assert max(y for vertices in found for y in vertices[:, 1]) == 100
            elif name == "accuracy_by_round":
                thin = [list(line.get_ydata()) for line in ax.lines if line.get_alpha() == 0.45]
                assert thin == [pytest.approx([5, 20]), pytest.approx([5, 80])]


def test_curves_by_uplink_never_fall_and_are_in_megabytes(tmp_path: Path) -> None:
    # 509 of 50,890 entries of 48 bits from 10 clients: 0.03054 MB a round.
    run = write_run(tmp_path, keep="1e-2", evaluated=[0, 10, 20], accuracies=[0.4, 0.7, 0.6])
    lost = write_run(tmp_path, keep="1e-2", seed=2, evaluated=[0, 10, 20], accuracies=[0.5, 0.3], diverged_round=15)
    tables.tabulate([run, lost], tmp_path / "tables")
    (ax,) = figures.draw("accuracy_by_uplink", tables.read(tmp_path / "tables")).axes
    (curve,) = lines_of(ax, "#D55E00")
    assert list(curve.get_ydata()) == pytest.approx([40, 70, 70])
    assert list(curve.get_xdata()) == pytest.approx([0.03054, 11 * 0.03054, 21 * 0.03054])
    (cross,) = crosses(ax)
    assert list(cross.get_xdata()) == pytest.approx([16 * 0.03054])
    assert list(cross.get_ydata()) == pytest.approx([50])
    assert ax.get_xscale() == "log"
    assert "(MB)" in ax.get_xlabel()


def test_total_traffic_is_both_ways(tmp_path: Path) -> None:
    # 0.03054 MB up a round, and 10 clients' 50,890 weights of 4 bytes down.
    run = write_run(tmp_path, keep="1e-2", evaluated=[0, 10], accuracies=[0.4, 0.7])
    lost = write_run(tmp_path, keep="1e-2", seed=2, evaluated=[0, 10], accuracies=[0.5], diverged_round=5)
    tables.tabulate([run, lost], tmp_path / "tables")
    (ax,) = figures.draw("accuracy_by_total", tables.read(tmp_path / "tables")).axes
    (curve,) = lines_of(ax, "#D55E00")
    assert list(curve.get_xdata()) == pytest.approx([0.03054 + 2.0356, 11 * (0.03054 + 2.0356)])
    (cross,) = crosses(ax)
    assert list(cross.get_xdata()) == pytest.approx([6 * (0.03054 + 2.0356)])


def test_final_accuracy_by_keep_shows_means_seeds_and_the_dense_reference(tmp_path: Path) -> None:
    common = {"evaluated": [0, 10]}
    runs = [
        write_run(tmp_path, method="fedavg", keep="dense", seed=1, accuracies=[0.1, 0.90], **common),
        write_run(tmp_path, method="fedavg", keep="dense", seed=2, accuracies=[0.1, 0.92], **common),
        write_run(tmp_path, keep="1e-2", seed=1, accuracies=[0.1, 0.80], **common),
        write_run(tmp_path, keep="1e-2", seed=2, accuracies=[0.1, 0.84], **common),
        write_run(tmp_path, keep="1e-4", seed=1, accuracies=[0.1, 0.60], **common),
        write_run(tmp_path, keep="1e-4", seed=2, accuracies=[0.1], diverged_round=5, **common),
    ]
    tables.tabulate(runs, tmp_path / "tables")
    (ax,) = figures.draw("accuracy_by_keep", tables.read(tmp_path / "tables")).axes
    (reference,) = [line for line in ax.lines if line.get_color() == "#404040"]
    assert list(reference.get_ydata()) == pytest.approx([91, 91])
    (mean,) = lines_of(ax, "#D55E00")
    assert list(mean.get_ydata()) == pytest.approx([60, 82])
    assert list(mean.get_xdata()) == pytest.approx([1e-4, 1e-2])
    seeds = [line for line in ax.lines if line.get_alpha() is not None]
    assert sorted(y for line in seeds for y in line.get_ydata()) == pytest.approx([60, 80, 84])
    (cross,) = crosses(ax)
    assert list(cross.get_xdata()) == pytest.approx([1e-4])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1e-2", "1e-4"]


def test_the_pareto_front_is_what_no_cell_betters_with_less_uplink(tmp_path: Path) -> None:
    # 51 and 509 entries of 48 bits a client: 0.00306 and 0.03054 MB a round.
    runs = [
        write_run(tmp_path, keep="1e-3", evaluated=[0, 10, 20], accuracies=[0.2, 0.5, 0.45]),
        write_run(tmp_path, keep="1e-2", evaluated=[0, 10, 20], accuracies=[0.4, 0.45, 0.7]),
    ]
    tables.tabulate(runs, tmp_path / "tables")
    figure = figures.draw("accuracy_by_uplink", tables.read(tmp_path / "tables"))
    look = entries(figure)["Pareto front"]
    (front,) = [line for line in figure.axes[0].lines if line.get_color() == look.get_color()]
    # 0.4 takes a round of 0.03054 MB, 0.5 eleven of 0.00306. 0.45 takes more than 0.5 does, and is left out.
    assert list(front.get_xdata()) == pytest.approx([0.00306, 0.03054, 0.03366, 21 * 0.03054])
    assert list(front.get_ydata()) == pytest.approx([20, 40, 50, 70])
    assert front.get_drawstyle() == "steps-post"  # a straight line would promise what nothing reached


def test_accuracy_by_local_epochs_shows_means_at_their_epochs(tmp_path: Path) -> None:
    finals = {1: (0.80, 0.84), 4: (0.90, 0.91)}
    runs = [
        write_run(
            tmp_path, method=method, keep=keep, local_epochs=epochs, seed=seed, evaluated=[9], accuracies=[a + more]
        )
        for method, keep, more in (("flare", "1e-2", 0), ("fedavg", "dense", 0.05))
        for epochs, accuracies in finals.items()
        for seed, a in enumerate(accuracies)
    ]
    runs.append(write_run(tmp_path, local_epochs=16, evaluated=[9], accuracies=[], diverged_round=3))
    tables.tabulate(runs, tmp_path / "tables")
    (ax,) = figures.draw("accuracy_by_local_epochs", tables.read(tmp_path / "tables")).axes
    assert ax.get_title() == "keep = 1e-2"
    (flare,) = lines_of(ax, "#D55E00")
    assert list(flare.get_ydata()) == pytest.approx([82, 90.5])
    # Beside its E, by less than a tenth.
    assert list(flare.get_xdata()) == pytest.approx([1, 4], rel=0.1)
    (dense,) = [line for line in ax.lines if line.get_color() == "#404040" and line.get_marker() == "s"]
    assert list(dense.get_ydata()) == pytest.approx([87, 95.5])
    (cross,) = crosses(ax)
    assert list(cross.get_xdata()) == pytest.approx([16], rel=0.1)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "4", "16"]


def test_accuracy_by_available_is_over_the_experiments_of_the_family_alone(tmp_path: Path) -> None:
    common = {"family": "all", "evaluated": [9]}
    runs = [
        write_run(tmp_path, experiment="all", seed=1, accuracies=[0.9], **common),
        write_run(tmp_path, experiment="all", seed=2, accuracies=[0.8], **common),
        write_run(tmp_path, experiment="three", available=3, accuracies=[0.6], **common),
        write_run(tmp_path, experiment="other", available=5, evaluated=[9], accuracies=[0.1]),
    ]
    tables.tabulate(runs, tmp_path / "tables")
    for experiment in ("all", "three", "other"):
        write_labels(tmp_path / "tables", experiment)
    (ax,) = figures.draw("accuracy_by_available", tables.read(tmp_path / "tables", "all")).axes
    (mean,) = lines_of(ax, "#D55E00")
    assert (list(mean.get_xdata()), list(mean.get_ydata())) == (pytest.approx([3, 10]), pytest.approx([60, 85]))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["3", "10"]


def test_compute_cost_is_wall_time_by_rounds(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path, seed=1, evaluated=[19], change={"wall_seconds": 10.0}),
        write_run(tmp_path, seed=2, evaluated=[19], change={"wall_seconds": 14.0}),
        write_run(tmp_path, method="fedavg", keep="dense", evaluated=[9], change={"wall_seconds": 3.0}),
        write_run(tmp_path, keep="1e-3", evaluated=[19], diverged_round=0, accuracies=[]),
    ]
    tables.tabulate(runs, tmp_path / "tables")
    (ax,) = figures.draw("compute_cost", tables.read(tmp_path / "tables")).axes
    (mean,) = lines_of(ax, "#D55E00")
    assert (list(mean.get_xdata()), list(mean.get_ydata())) == (pytest.approx([1e-2]), pytest.approx([0.6]))
    (reference,) = [line for line in ax.lines if line.get_color() == "#404040"]
    assert list(reference.get_ydata()) == pytest.approx([0.3, 0.3])
    assert len(crosses(ax)) == 1 and ax.get_ylim()[0] == 0


def test_tuning_shows_every_trial_and_rings_the_best(results: Path) -> None:
    figure = figures.draw("tuning", tables.read(results / "tables", "diverged"))
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == ["FLARE: tau", "FLARE: pull_steps", "Top-K: learning_rate"]
    tau, steps, rate = figure.axes
    assert (tau.get_xscale(), rate.get_xscale()) == ("log", "linear")
    ring = entries(figure)["best of its study"].get_markersize()
    for ax, complete, best, diverged, pruned in (
        (tau, [1e-3, 0.013], 0.013, 0.5, 0.1),
        (steps, [0, 0], 0, 2, 1),  # of the words 1, 2, all
        (rate, [0.1, 0.15], 0.15, 0.2, 0.05),
    ):
        rings = [line for line in ax.lines if line.get_markersize() == ring]
        assert [[*line.get_xdata(), *line.get_ydata()] for line in rings] == [[best, pytest.approx(65)]] * 2
        assert [[*line.get_xdata()] for line in crosses(ax)] == [[diverged]] * 2
        assert [[*line.get_xdata()] for line in ax.lines if line.get_marker() == "|"] == [[pruned]] * 2
        rest = [line for line in ax.lines if line.get_transform() == ax.transData and line not in rings]
        assert [([*line.get_xdata()], [*line.get_ydata()]) for line in rest] == [
            (complete, pytest.approx([50, 65]))
        ] * 2
        assert len({line.get_marker() for line in rest}) == 2
    assert [label.get_text() for label in steps.get_xticklabels()] == ["1", "2", "all"]


def test_tuning_shows_the_spread_of_seeds_and_importance_the_shares(results: Path) -> None:
    found = tables.read(results / "tables", "diverged")
    tau = figures.draw("tuning", found).axes[0]
    lines = [line.get_segments() for line in tau.collections]
    assert [[segment.ravel().tolist() for segment in cell] for cell in lines] == [
        [pytest.approx([1e-3, 47, 1e-3, 52]), pytest.approx([0.013, 62, 0.013, 67])]
    ] * 2
    # Where no trial diverged or was pruned, the panels have their room.
    whole = found["trials"].assign(state="complete", result=0.5, lowest=0.5, highest=0.5)
    assert figures.draw("tuning", found | {"trials": whole}).axes[0].get_position().width > 0.2
    found["trials"].loc[found["trials"]["setting"] == "tau", "importance"] = 0.75
    (ax,) = figures.draw("importance", found).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["FLARE: tau", "FLARE: pull_steps"]
    shown = sorted((line.get_ydata()[0], line.get_xdata()[0]) for line in ax.lines)
    assert shown == [(0, 0.75), (0, 0.75), (1, 0.5), (1, 0.5)]


def test_staleness_shows_mean_percentiles_and_the_memory_as_means_over_finished_runs(tmp_path: Path) -> None:
    common = {"evaluated": [0, 10], "staleness": True}
    runs = [
        write_run(tmp_path, method="fedavg", keep="dense", **common),
        write_run(tmp_path, seed=1, **common),
        write_run(tmp_path, seed=2, **common),
        write_run(tmp_path, seed=3, diverged_round=7, **common),
        write_run(tmp_path, method="ef21", **common),
    ]
    tables.tabulate(runs, tmp_path / "tables")
    found = tables.read(tmp_path / "tables")
    columns = ["staleness_p50", "staleness_mean", "staleness_p99", "memory_norm"]
    found["rounds"][columns] = [
        *([0, 0, 0, np.nan], [0, 0, 0, np.nan]),
        *([1, 1, 1, 2], [3, 6, 10, 3]),
        *([1, 1, 1, 2], [4, 8, 11, 4]),
        [1, 1, 1, 90],
        *([1, 1, 1, np.nan], [2, 7, 9, np.nan]),
    ]
    figure = figures.draw("staleness", found)
    above, below = figure.axes
    assert above.get_title() == "keep = 1e-2"

    # By the dashes that the legend explains, which are all different.
    legend = entries(figure)
    kinds = ("mean", "50th percentile", "99th percentile")
    assert set(legend) == {"FLARE", "EF21", *kinds}
    meaning = {str(legend[kind]._unscaled_dash_pattern): kind[:4] for kind in kinds}
    assert len(meaning) == 3
    shown = {(line.get_color(), meaning[str(line._unscaled_dash_pattern)]): line for line in above.lines}
    flare, ef21 = legend["FLARE"].get_color(), legend["EF21"].get_color()
    assert {key: list(line.get_ydata()) for key, line in shown.items()} == {
        (flare, "50th"): [1, 3.5],
        (flare, "mean"): [1, 7],
        (flare, "99th"): [1, 10.5],
        (ef21, "50th"): [1, 2],
        (ef21, "mean"): [1, 7],
        (ef21, "99th"): [1, 9],
    }
    assert all(list(line.get_xdata()) == [0, 10] for line in shown.values())

    # EF21 has no memory. Two runs, so no band.
    (norm,) = below.lines
    assert (norm.get_color(), list(norm.get_xdata()), list(norm.get_ydata())) == (flare, [0, 10], [2, 3.5])
    assert not below.collections
    assert above.get_ylim()[0] == below.get_ylim()[0] == 0


def test_staleness_of_many_keeps_and_local_epochs_fits_a_page(tmp_path: Path) -> None:
    sweep = {"methods": ["topk"], "keeps": FIVE, "local_epochs": [1, 4, 16], "seeds": [1], "staleness": True}
    tables.tabulate(write_sweep(tmp_path, **sweep), tmp_path / "tables")
    figure = figures.draw("staleness", tables.read(tmp_path / "tables"))
    check_size(figure)
    check_text(figure)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == [f"keep = {keep}, E = {epochs}" for epochs in (1, 4, 16) for keep in FIVE]
    # All panels of a kind share their scale, and a panel's title stands above its staleness.
    kinds = {bool(ax.get_title()): ax.get_ylim() for ax in figure.axes}
    assert kinds[True] != kinds[False]
    assert all(ax.get_ylim() == kinds[bool(ax.get_title())] for ax in figure.axes)
    assert len(figure.axes) == 30


def test_labels_shows_the_counts_it_was_given() -> None:
    cells = [(0, 0, 3), (1, 2, 8), (0, 2, 0), (1, 0, 1), (0, 1, 2), (1, 1, 5)]
    counted = pd.DataFrame(cells, columns=["client", "label", "samples"]).assign(experiment="x")
    figure = figures.draw("labels", {"labels": counted})
    (ax,) = (ax for ax in figure.axes if ax not in bars(figure))
    (image,) = ax.images
    assert image.get_array().tolist() == [[3, 2, 0], [1, 5, 8]]
    # Client 0 is the row at the top, class 0 the column on the left.
    assert list(image.get_extent()) == [-0.5, 2.5, 1.5, -0.5] and image.origin == "upper"
    shown = [
        [t.get_text() for t in texts(figure) if t in labels] for labels in (ax.get_xticklabels(), ax.get_yticklabels())
    ]
    assert shown == [["0", "1", "2"], ["0", "1"]]
    # None is the palest shade and the most is the darkest, in grey too.
    grey = [image.to_rgba(np.array([[count]]))[0, 0, :3] @ [0.299, 0.587, 0.114] for count in (0, 1, 2, 3, 5, 8)]
    assert grey[0] > 0.95 and grey[-1] < 0.3
    assert all(before - after > 0.05 for before, after in itertools.pairwise(grey))


def test_dense_methods_are_the_reference_in_every_panel(drawn: dict[tuple[str, str], Figure]) -> None:
    axes = drawn["three-keeps", "accuracy_by_round"].axes
    assert [ax.get_title() for ax in axes] == ["keep = 1e-1", "keep = 1e-2", "keep = 1e-3"]
    references = [[line for line in ax.lines if line.get_color() == "#404040"] for ax in axes]
    assert [len(found) for found in references] == [1, 1, 1]
    assert len({tuple(found[0].get_ydata()) for found in references}) == 1


def test_a_method_looks_the_same_everywhere_and_like_no_other() -> None:
    def looks(*names: str) -> dict[str, dict]:
        return style.methods(pd.DataFrame({"method": names}))

    everything = looks(*algorithms.names())
    assert all(looks(name)[name] == look for name, look in everything.items())
    assert len({look["color"] for look in everything.values()}) == len(everything)
    # In grey, too.
    assert len({look["marker"] for look in everything.values()}) == len(everything)
    assert len({str(look["linestyle"]) for look in everything.values()}) == len(everything)


def test_a_new_methods_look_depends_on_the_names_of_the_new_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(name: str, *others: str) -> dict:
        return style.methods(pd.DataFrame({"method": [*others, name]}))[name]

    monkeypatch.setattr(algorithms, "names", lambda: ["fedavg", "flare", "leaky", "mine", "topk"])
    alone = look("mine")
    assert alone["label"] == "mine"
    assert alone == look("mine", "flare") == look("mine", "leaky", "topk")
    assert alone["color"] != look("leaky")["color"]
    # A method of old tables whose file is gone still gets one.
    assert look("gone")["label"] == "gone"
    # More new methods than colours.
    many = [f"new{i:02}" for i in range(20)]
    found = style.methods(pd.DataFrame({"method": many})).values()
    assert len({(look["color"], look["marker"], str(look["linestyle"])) for look in found}) == 20


SAVE_ALL = """
import sys
from pathlib import Path
from flare import figures
for name in figures.names():
    sweep = {"tuning": "two-keeps", "importance": "diverged"}.get(name, "one-keep")
    figures.save(name, Path(sys.argv[1]), sweep, Path(sys.argv[2]) / name)
"""


def test_saved_figures_are_the_same_bytes_whenever_they_are_drawn(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("1", "2"):
        (tmp_path / folder).mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", SAVE_ALL, str(results / "tables"), str(tmp_path / "1")],
        cwd=Path(figures.__file__).parents[2],
        # Another order of sets, another day, another user's settings.
        env={**os.environ, "PYTHONHASHSEED": "1", "SOURCE_DATE_EPOCH": "1", "MPLBACKEND": "svg"},
    ) as other:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "2")
        for name in figures.names():
            figures.save(name, results / "tables", SAMPLE.get(name, "one-keep"), tmp_path / "2" / name)
    assert other.returncode == 0
    written = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert written == sorted(f"{name}.{format_}" for name in figures.names() for format_ in ("pdf", "png"))
    for name in written:
        content = (tmp_path / "1" / name).read_bytes()
        assert content == (tmp_path / "2" / name).read_bytes(), name
        for mark in (b"CreationDate", b"ModDate", b"Software", b"/Type3", matplotlib.__version__.encode()):
            assert mark not in content
        if name.endswith(".pdf"):
            assert content.startswith(b"%PDF-")
            assert b"/FontFile2" in content


def test_drawing_leaves_matplotlibs_settings_and_state_alone(results: Path) -> None:
    before = dict(matplotlib.rcParams)
    for name in figures.names():
        figures.draw(name, tables.read(results / "tables", SAMPLE.get(name, "one-keep")))
    assert dict(matplotlib.rcParams) == before
    if "matplotlib.pyplot" in sys.modules:
        assert not sys.modules["matplotlib.pyplot"].get_fignums()


def test_wrong_names_and_missing_tables_are_one_line(results: Path, tmp_path: Path) -> None:
    name = figures.names()[0]
    with pytest.raises(ConfigError, match=rf"figure: '{name}x' is unknown \(did you mean '{name}'"):
        figures.save(name + "x", results / "tables", "diverged", tmp_path / "x")
    with pytest.raises(ConfigError, match=r"experiment: 'divrged' is unknown \(did you mean 'diverged'"):
        figures.save(name, results / "tables", "divrged", tmp_path / "x")
    with pytest.raises(DataError, match="is missing; make the tables first"):
        figures.save(name, tmp_path, "diverged", tmp_path / "x")
    assert not list(tmp_path.iterdir())


NOTEBOOKS = sorted((Path(figures.__file__).parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(notebook: Path) -> None:
    import nbformat

    content = nbformat.read(notebook, as_version=4)
    nbformat.validate(content)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert code
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
