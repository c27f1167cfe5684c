"""Figures: every file of flare/figures is drawn on several made-up sweeps and must be fit for a paper."""

from __future__ import annotations

import itertools
import json
import os
import shutil
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
from synthetic import write_labels, write_run, write_sweep

from flare import algorithms, figures, tables
from flare.config import ConfigError
from flare.datasets import DataError
from flare.figures import _style

FIVE = ("1e-1", "1e-2", "1e-3", "1e-4", "1e-5")
SWEEPS = {
    "one-keep": {"keeps": ["1e-2"]},
    "two-keeps": {},
    "three-keeps": {"keeps": FIVE[:3]},
    "five-keeps-six-methods": {"keeps": FIVE, "methods": ("fedavg", "topk", "flare", "fedprox", "ef21", "ffl")},
    "ten-keeps": {"keeps": ["1", *(f"0.{tenth}" for tenth in range(9, 1, -1)), "1e-1"], "methods": ["topk"]},
    "local-epochs": {"local_epochs": [1, 4, 16], "keeps": FIVE[:2], "seeds": [1, 2]},
    "diverged": {
        "diverged": {("flare", "1e-2", 2): 26, ("topk", "1e-3", 1): 3, ("topk", "1e-3", 2): 0, ("topk", "1e-3", 3): 50}
    },
    "all-diverged": {"methods": ["topk"], "keeps": ["1e-2"], "seeds": [1], "diverged": {("topk", "1e-2", 1): 0}},
    "one-seed": {"seeds": [1]},
    "dense-only": {"methods": ["fedavg"]},
    "no-dense": {"methods": ["topk", "flare"]},
    "dense-and-sparse": {"methods": ["fedavg", "fedprox"], "keeps": ["dense", "1e-2"]},
    "unknown-methods": {"methods": ["fedavg", "mine", "another_one_with_a_long_name"]},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with the tables of all sweeps, and of one of three rounds only."""
    folder = tmp_path_factory.mktemp("results")
    runs = [
        run for name, sweep in SWEEPS.items() for run in write_sweep(folder, experiment=name, staleness=True, **sweep)
    ]
    runs += [
        write_run(folder, experiment="three-rounds", seed=seed, evaluated=range(3), staleness=True) for seed in (1, 2)
    ]
    tables.tabulate(runs, folder / "tables")
    for number, name in enumerate((*SWEEPS, "three-rounds")):
        write_labels(folder / "tables", name, clients=(10, 1, 4, 100)[number % 4], classes=(10, 86)[number % 5 == 3])
    return folder


@pytest.fixture(scope="module")
def drawn(results: Path) -> dict[tuple[str, str], Figure]:
    """Every figure of every sweep, as it is saved."""
    out = {}
    for sweep, name in itertools.product((*SWEEPS, "three-rounds"), figures.names()):
        figure = figures.draw(name, tables.read(results / "tables", sweep))
        FigureCanvasAgg(figure).draw()
        out[sweep, name] = figure
    return out


every_figure = pytest.mark.parametrize(
    ("sweep", "name"), list(itertools.product((*SWEEPS, "three-rounds"), figures.names()))
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


def test_figures_are_found_by_listing_the_folder() -> None:
    folder = Path(figures.__file__).parent
    assert figures.names() == sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    assert {"accuracy_by_keep", "accuracy_by_round", "accuracy_by_uplink"} <= set(figures.names())


def test_a_figure_that_needs_what_was_not_measured_is_not_asked_for(tmp_path: Path) -> None:
    assert "staleness" not in figures.of({}) and "staleness" not in figures.of({"staleness": False})
    assert figures.of({"staleness": True}) == figures.names()
    tables.tabulate(write_sweep(tmp_path), tmp_path / "tables")
    write_labels(tmp_path / "tables", "fashion-fc")
    assert figures.possible(tables.read(tmp_path / "tables", "fashion-fc")) == figures.of({})
    tables.tabulate(write_sweep(tmp_path, staleness=True), tmp_path / "tables")
    assert figures.possible(tables.read(tmp_path / "tables", "fashion-fc")) == figures.names()


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


@every_figure
def test_a_figure_is_as_wide_as_a_paper_wants_and_not_taller_than_a_page(
    drawn: dict[tuple[str, str], Figure], sweep: str, name: str
) -> None:
    width, height = drawn[sweep, name].get_size_inches()
    assert width in (3.5, 5.5)
    assert height <= 9


@every_figure
def test_text_is_large_enough_whole_and_apart(drawn: dict[tuple[str, str], Figure], sweep: str, name: str) -> None:
    figure = drawn[sweep, name]
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


@every_figure
def test_axes_are_labelled_with_units_and_the_legend_lies_outside(
    drawn: dict[tuple[str, str], Figure], sweep: str, name: str
) -> None:
    figure = drawn[sweep, name]
    lowest = {round(ax.get_position().x0, 3): ax for ax in sorted(figure.axes, key=lambda ax: -ax.get_position().y0)}
    leftmost = {round(ax.get_position().y0, 3): ax for ax in sorted(figure.axes, key=lambda ax: -ax.get_position().x0)}
    assert all(ax.get_xlabel() for ax in lowest.values())
    assert all("(%)" in ax.get_ylabel() for ax in leftmost.values())
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1
    for ax in figure.axes:
        assert not overlap(box, ax.get_tightbbox())
    labels = [text.get_text() for text in legend.get_texts() if text.get_text().strip()]
    assert len(labels) == len(set(labels))


@every_figure
def test_accuracies_are_percentages_and_nothing_is_drawn_as_zero(
    drawn: dict[tuple[str, str], Figure], sweep: str, name: str
) -> None:
    for ax in drawn[sweep, name].axes:
        low, high = ax.get_ylim()
        assert 0 <= low < high <= 100
        for line in ax.lines:
            if line.get_transform() == ax.transData:
                values = np.asarray(line.get_ydata(), dtype=float)
                assert not (values[~np.isnan(values)] <= 0).any()


@every_figure
def test_divergence_is_marked_exactly_where_there_is_one(
    drawn: dict[tuple[str, str], Figure], sweep: str, name: str
) -> None:
    figure = drawn[sweep, name]
    (legend,) = figure.legends
    said = "diverged run" in [text.get_text() for text in legend.get_texts()]
    marked = any(crosses(ax) for ax in figure.axes)
    assert said == marked == ("diverged" in sweep)


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
    assert list(cross.get_xdata()) == pytest.approx([15 * 0.03054])
    assert list(cross.get_ydata()) == pytest.approx([50])
    assert ax.get_xscale() == "log"
    assert "(MB)" in ax.get_xlabel()


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
    assert list(mean.get_ydata()) == pytest.approx([82, 60])
    assert list(mean.get_xdata()) == pytest.approx([1e-2, 1e-4])
    seeds = [line for line in ax.lines if line.get_alpha() is not None]
    assert sorted(y for line in seeds for y in line.get_ydata()) == pytest.approx([60, 80, 84])
    (cross,) = crosses(ax)
    assert list(cross.get_xdata()) == pytest.approx([1e-4])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1e-2", "1e-4"]


def test_dense_methods_are_the_reference_in_every_panel(drawn: dict[tuple[str, str], Figure]) -> None:
    axes = drawn["three-keeps", "accuracy_by_round"].axes
    assert [ax.get_title() for ax in axes] == ["keep = 1e-1", "keep = 1e-2", "keep = 1e-3"]
    references = [[line for line in ax.lines if line.get_color() == "#404040"] for ax in axes]
    assert [len(found) for found in references] == [1, 1, 1]
    assert len({tuple(found[0].get_ydata()) for found in references}) == 1


def test_a_method_looks_the_same_everywhere_and_like_no_other() -> None:
    def looks(*names: str) -> dict[str, dict]:
        return _style.methods(pd.DataFrame({"method": names}))

    everything = looks(*algorithms.names())
    assert all(looks(name)[name] == look for name, look in everything.items())
    assert len({look["color"] for look in everything.values()}) == len(everything)
    # In grey, too.
    assert len({look["marker"] for look in everything.values()}) == len(everything)
    assert len({str(look["linestyle"]) for look in everything.values()}) == len(everything)


def test_a_new_methods_look_depends_on_the_names_of_the_new_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(name: str, *others: str) -> dict:
        return _style.methods(pd.DataFrame({"method": [*others, name]}))[name]

    monkeypatch.setattr(algorithms, "names", lambda: ["fedavg", "flare", "leaky", "mine", "topk"])
    alone = look("mine")
    assert alone["label"] == "mine"
    assert alone == look("mine", "flare") == look("mine", "leaky", "topk")
    assert alone["color"] != look("leaky")["color"]
    # A method of old tables whose file is gone still gets one.
    assert look("gone")["label"] == "gone"
    # More new methods than colours.
    many = [f"new{i:02}" for i in range(20)]
    found = _style.methods(pd.DataFrame({"method": many})).values()
    assert len({(look["color"], look["marker"], str(look["linestyle"])) for look in found}) == 20


SAVE_ALL = """
import sys
from pathlib import Path
from flare import figures
for name in figures.names():
    figures.save(name, Path(sys.argv[1]), "diverged", Path(sys.argv[2]) / name)
"""


def test_saved_figures_are_the_same_bytes_whenever_they_are_drawn(results: Path, tmp_path: Path) -> None:
    for seed, backend in (("1", "svg"), ("2", "agg")):
        (tmp_path / seed).mkdir()
        subprocess.run(
            [sys.executable, "-c", SAVE_ALL, str(results / "tables"), str(tmp_path / seed)],
            check=True,
            cwd=Path(figures.__file__).parents[2],
            # Another order of sets, another day, another user's settings.
            env={**os.environ, "PYTHONHASHSEED": seed, "SOURCE_DATE_EPOCH": seed, "MPLBACKEND": backend},
        )
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
        figures.draw(name, tables.read(results / "tables", "two-keeps"))
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


@pytest.mark.parametrize(
    ("notebook", "place"), [(path, ("notebooks", ".")[number % 2]) for number, path in enumerate(NOTEBOOKS)]
)
def test_notebooks_run_from_their_folder_and_from_the_root(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notebook: Path, place: str
) -> None:
    import nbclient
    import nbformat

    shutil.copytree(results / "tables", tmp_path / "tables")
    runs = pd.read_csv(tmp_path / "tables" / "runs.csv", dtype=str)
    for path in (tmp_path / "tables").glob("*.csv"):
        table = pd.read_csv(path, dtype=str)
        table[table["experiment"].isin(["two-keeps", "diverged"])].to_csv(path, index=False)
    assert len(runs) > len(pd.read_csv(tmp_path / "tables" / "runs.csv"))

    monkeypatch.setenv("FLARE_RESULTS", str(tmp_path))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    content = nbformat.read(notebook, as_version=4)
    folder = Path(figures.__file__).parents[2] / place
    nbclient.NotebookClient(content, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    shown = [output for cell in content.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in shown if output.output_type in ("error", "stream")]
    images = [output for output in shown if "image/png" in output.get("data", {})]
    assert images
    if notebook.stem == "paper_figures":
        assert len(images) == 2 * len(figures.names())
    said = json.dumps(shown)
    assert "two-keeps" in said and "one-seed" not in said
