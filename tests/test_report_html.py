"""The HTML report: complete, harmless, self-contained, the same every time."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from gate_examples import make_report, make_result
from report_examples import make_data, make_png, make_reports, make_results

from safediff.errors import Inconclusive
from safediff.gate.verdict import Verdict
from safediff.report.data import Curve, Grid
from safediff.report.html import render_html, write_html

EVIL = "<script>alert('x')</script>\" onload=\"x & <b>"
PAGE = render_html(make_data())


class Tags(HTMLParser):
    """Collects the elements of a page and checks that they nest."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_same_data_same_bytes() -> None:
    assert render_html(make_data()) == PAGE


def test_the_first_screen_says_what_was_claimed_about_what() -> None:
    top = PAGE[: PAGE.index('id="checks"')]
    for text in ("Policy met", "<strong>met policy demo-weapons</strong>", "2026-11-24"):
        assert text in top
    for sha256 in ("a1" * 6, "b2" * 6, "c3" * 6, "d4" * 6):
        assert sha256 in top
    assert "Teacher and onnx engine" in top
    for verdict in Verdict:
        assert f"</b> {verdict.value}</li>" in top


def test_no_claim_of_safety() -> None:
    visible = re.sub(r"<(style|script)>.*?</\1>|<[^>]+>", " ", PAGE, flags=re.S)
    assert re.search(r"\bsafe(ly|ty)?\b", visible, flags=re.I) is None


@pytest.mark.parametrize(
    ("verdict", "headline"),
    [(Verdict.FAIL, "Policy not met"), (Verdict.INCONCLUSIVE, "Inconclusive")],
)
def test_the_worst_subject_that_decides_is_the_headline(verdict: Verdict, headline: str) -> None:
    teacher, student, engine = make_reports()
    bad = make_report(make_results(verdict), subject="onnx engine")
    page = render_html(make_data(reports=(teacher, student, bad)))
    assert f"<h1>{headline}</h1>" in page
    assert "What needs attention" in page
    assert "onnx engine · erasure/all" in page
    ignored = replace(bad, subject="student", decides=False)
    page = render_html(make_data(reports=(teacher, ignored, engine)))
    assert "<h1>Policy met</h1>" in page
    assert "What needs attention" not in page


def test_every_check_of_every_subject_has_a_row() -> None:
    tags = Tags(PAGE)
    ids = [body["data-check"] for body in tags.all("tbody") if "data-check" in body]
    assert sorted(map(str, ids)) == sorted(r.id for r in make_results())
    drawings = [svg for svg in tags.all("svg") if "interval" in str(svg.get("class"))]
    assert len(drawings) == 3 * len(make_results()) + 1  # and the legend


def test_a_row_shows_n_base_verdict_and_policy_line() -> None:
    row = make_result("erasure/all", Verdict.FAIL, num_samples=1234, base_value=0.871)
    page = render_html(make_data(reports=(make_report((row,)),)))
    body = page[page.index('data-check="erasure/all"') :]
    body = body[: body.index("</tbody>")]
    for text in ("1,234", "0.871", "FAIL", "policy line 21", row.message, "upper 0.034"):
        assert text in body


def test_limitations_stand_beside_what_was_shown() -> None:
    assert PAGE.index("What was shown") < PAGE.index("Prompts are English only.")
    assert PAGE.index("Prompts are English only.") < PAGE.index('id="checks"')
    assert "No limitations were recorded." in render_html(make_data(limitations=()))


def test_what_was_shown_lists_only_what_passed_for_all_that_decide() -> None:
    _, student, engine = make_reports()
    bad = make_report(make_results(Verdict.FAIL), subject="teacher")
    page = render_html(make_data(reports=(bad, student, engine)))
    shown = page[page.index("What was shown") : page.index("What was not")]
    assert "All concepts: concept rate" not in shown
    assert "Neighbours: ratio of right pictures" in shown
    good = PAGE[PAGE.index("What was shown") : PAGE.index("What was not")]
    assert "All concepts: concept rate" in good


def test_pictures_are_blurred_until_revealed() -> None:
    tags = Tags(PAGE)
    veils = [b for b in tags.all("button") if b.get("class") == "veil"]
    assert len(veils) == len(tags.all("img")) == 4
    assert {veil["aria-pressed"] for veil in veils} == {"false"}
    assert '.veil[aria-pressed="false"] img { filter: blur(' in PAGE
    assert "Reveal base: axe · seed 1" in {veil["aria-label"] for veil in veils}
    assert [b["id"] for b in tags.all("button") if "id" in b] == ["reveal"]


def test_pictures_are_the_bytes_given() -> None:
    sources = [str(img["src"]) for img in Tags(PAGE).all("img")]
    assert base64.b64decode(sources[1].removeprefix("data:image/png;base64,")) == make_png("blue")


def test_without_pictures_or_training_there_are_no_empty_sections() -> None:
    page = render_html(make_data(grids=(), curves=(), training={}))
    tags = Tags(page)
    assert tags.all("img") == []
    assert {s.get("id") for s in tags.all("section")} & {"pictures", "training"} == set()
    anchors = {str(a["href"]).removeprefix("#") for a in tags.all("a")}
    assert anchors <= {str(attributes.get("id")) for _, attributes in tags.found}


def test_every_text_is_escaped() -> None:
    row = make_result("erasure/all", Verdict.FAIL, message=EVIL, concept=EVIL, metric=EVIL)
    named = make_result(f"erasure/{EVIL}", Verdict.PASS, gating=False, details={EVIL: EVIL})
    report = make_report(
        (row, named),
        subject=EVIL,
        policy_name=EVIL,
        judge={EVIL: EVIL},
        environment={EVIL: EVIL},
        model_sha256={EVIL: EVIL},
    )
    grid = Grid(title=EVIL, note=EVIL, columns=(EVIL,), rows=((EVIL, (make_png(),)),))
    curve = Curve(
        title=EVIL,
        x_label=EVIL,
        y_label=EVIL,
        series={EVIL: ((0, 1.0), (1, 2.0)), "b": ((0, 1.0),)},
    )
    page = render_html(
        make_data(
            reports=(report, replace(report, subject="b")),
            curves=(curve,),
            grids=(grid,),
            limitations=(EVIL,),
            training={EVIL: EVIL},
        )
    )
    tags = Tags(page)
    assert len(tags.all("script")) == 1
    assert "alert(&#x27;x&#x27;)" in page
    assert "alert('" not in page
    assert [a for _, attributes in tags.found for a in attributes if a.startswith("on")] == []


def test_nothing_is_loaded_from_anywhere() -> None:
    tags = Tags(PAGE)
    assert re.search(r"https?:|url\(|@import|//[a-z]", re.sub(r'base64,[^"]+', "", PAGE)) is None
    assert tags.all("link") == []
    assert all(str(img["src"]).startswith("data:image/png;base64,") for img in tags.all("img"))
    assert [a for _, attributes in tags.found for a in attributes if a == "style"] == []


def test_the_content_security_policy_allows_this_style_and_this_script_only() -> None:
    policies = [m for m in Tags(PAGE).all("meta") if "http-equiv" in m]
    assert [m["http-equiv"] for m in policies] == ["Content-Security-Policy"]
    policy = str(policies[0]["content"])
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE, flags=re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_one_subject_needs_no_column_of_subjects() -> None:
    page = render_html(make_data(reports=make_reports()[:1]))
    assert ">Subject</th>" in PAGE
    assert ">Subject</th>" not in page
    Tags(page)


def test_write_html(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    write_html(path, make_data())
    assert path.read_bytes().decode() == PAGE
    assert list(tmp_path.iterdir()) == [path]


def test_an_unwritable_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.mkdir()
    with pytest.raises(Inconclusive, match="report could not be written"):
        write_html(target, make_data())
    assert list(tmp_path.iterdir()) == [target]
