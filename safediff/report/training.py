"""How the erased model was made: settings and curves."""

from collections.abc import Mapping, Sequence

from safediff.report.charts import curve_svg, series_key
from safediff.report.data import Curve
from safediff.report.markup import Html, el


def training_section(training: Mapping[str, str], curves: Sequence[Curve]) -> Html:
    """Settings and charts; nothing where there are neither."""
    if not training and not curves:
        return Html("")
    facts = (el("div", el("dt", name), el("dd", value)) for name, value in training.items())
    return el(
        "section",
        el("h2", "Training"),
        el("dl", *facts, class_="facts") if training else "",
        el("div", *map(_figure, curves), class_="charts"),
        id="training",
    )


def _figure(curve: Curve) -> Html:
    keys = (el("li", series_key(i), name) for i, name in enumerate(curve.series))
    return el(
        "figure",
        el("figcaption", el("b", curve.title), el("small", curve.y_label)),
        curve_svg(curve),
        el("ul", *keys, class_="keys") if len(curve.series) > 1 else "",
    )
