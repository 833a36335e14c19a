"""Plots of what attacks do to images and networks."""

from dataclasses import asdict

from catwalk.plots.scatter import Point, draw_scatter
from catwalk.study.plots.study_plot import StudyPlot, attack_of_cell, interactive
from catwalk.study.results import StudyResults


def success_against_loss(results: StudyResults) -> StudyPlot | None:
    """Draw the success rate against the loss of features."""
    cells = {
        attack_of_cell(cell): cell for cell in results.cells if None not in (cell.get("sr"), cell.get("feature_loss"))
    }
    if not cells:
        return None
    outcomes = {(cell["extractor"], cell["attack"], cell["feature_loss"], cell["sr"]) for cell in cells.values()}
    several = len(outcomes) > len({outcome[:2] for outcome in outcomes})  # protocols make a difference to images
    if not several:
        cells = {("", *place[1:]): cell for place, cell in cells.items()}
    points = [
        Point(
            cell["protocol"] if several else "",
            *(cell["extractor"], cell["attack"], cell["feature_loss"], cell["sr"]),
            *(cell.get("sr_low"), cell.get("sr_high")),
        )
        for cell in cells.values()
    ]
    title = "Success on the CNN, against how far the features move"
    labels = {"x": "feature loss", "y": "success rate"}
    return StudyPlot(
        key="success-features",
        title=title,
        caption="Success rate: share of the attacked images that the CNN takes for what the attack wants. Feature "
        "loss: mean squared error of their features, which are what a recommender looks at.",
        figure=draw_scatter(
            points,
            title=title,
            x_label="feature loss: mean squared error of the features",
            y_label=labels["y"],
            is_logarithmic=True,
            shares=("y",),
        ),
        interactive=interactive(
            [
                {**asdict(point), **{name: cell[name] for name in ("attack", "extractor", "protocol")}}
                for point, cell in zip(points, cells.values(), strict=True)
            ],
            labels,
            logarithmic=all(point.x > 0 for point in points),
            shares=["y"],
        ),
    )


def robustness(results: StudyResults) -> StudyPlot | None:
    """Draw the networks' accuracy under attack against that without."""
    points = [
        Point("", name, "", found["accuracy"], found["accuracy under attack"])
        for name, found in results.manifest.get("classifiers", {}).items()
        if None not in (found["accuracy"], found["accuracy under attack"])
    ]
    if not points:
        return None
    title = "Robustness against accuracy of the CNNs"
    labels = {"x": "accuracy, clean", "y": "accuracy, attacked"}
    return StudyPlot(
        key="robustness",
        title=title,
        caption="Share of the test images that each CNN recognises, as they are and under an untargeted attack.",
        figure=draw_scatter(
            points,
            title=title,
            x_label="accuracy on the test images",
            y_label="accuracy under attack",
            shares=("x", "y"),
        ),
        interactive=interactive(
            [{**asdict(point), "extractor": point.series} for point in points], labels, shares=["x", "y"]
        ),
    )
