"""The plots of a finished study, with the same points for hovering."""

from catwalk.study.plots.defended import defences
from catwalk.study.plots.effects import ablation, budgets, forests, looks_against_effect
from catwalk.study.plots.images import robustness, success_against_loss
from catwalk.study.plots.lists import bars, ranks
from catwalk.study.plots.study_plot import StudyPlot
from catwalk.study.stored import StoredResults

__all__ = ["StudyPlot", "draw_plots"]


def draw_plots(stored: StoredResults) -> list[StudyPlot]:
    """Draw all plots of a study for which it has the numbers."""
    results = stored.results
    drawn: list[StudyPlot | None] = [
        ablation(results),
        *forests(results),
        budgets(results),
        looks_against_effect(results),
        success_against_loss(results),
        robustness(results),
        defences(results),
        *bars(stored),
        ranks(stored),
    ]
    return [plot for plot in drawn if plot is not None]
