"""JUnit XML, against the schema of Jenkins' xUnit plugin (see tests/data)."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from ci_examples import POLICY, WAIVER, all_verdicts, passing
from gate_examples import make_report, make_result
from xsd import Schema

from safediff.gate.verdict import GateReport, Verdict
from safediff.report.junit import render_junit

SCHEMA = Schema(Path(__file__).parent / "data" / "junit-10.xsd")


def parsed() -> ET.Element:
    return ET.fromstring(render_junit(all_verdicts(), POLICY))


def case(root: ET.Element, suite: str, name: str) -> ET.Element:
    found = root.find(f"testsuite[@name='{suite}']/testcase[@name='{name}']")
    assert found is not None
    return found


@pytest.mark.parametrize("reports", [all_verdicts(), passing()])
def test_it_follows_the_schema(reports: tuple[GateReport, ...]) -> None:
    root = ET.fromstring(render_junit(reports, POLICY))
    assert list(SCHEMA.violations(root)) == []


@pytest.mark.parametrize(
    ("old", "new", "violation"),
    [
        ("<failure ", "<fail ", "<fail> is not declared"),
        ('tests="8"', "", "<testsuite> lacks tests"),
        ('tests="8"', 'tests="8" color="red"', "<testsuite> has no attribute color"),
        ('time="250.000"', 'time="4 min"', "<testsuite time>: '4 min' does not match"),
        ("<properties>", "<properties><failure/>", "<properties> may not hold <failure>"),
        ("</properties>", "x</properties>", "<properties> holds text"),
    ],
)
def test_the_schema_is_held_against_it(old: str, new: str, violation: str) -> None:
    text = render_junit(all_verdicts(), POLICY)
    assert old in text
    broken = text.replace(old, new)
    if new == "<fail ":
        broken = broken.replace("</failure>", "</fail>")
    found = list(SCHEMA.violations(ET.fromstring(broken)))
    assert any(line.startswith(violation) for line in found), found


def test_every_verdict_has_its_element() -> None:
    root = parsed()
    failure = case(root, "model", "erasure/all").find("failure")
    assert failure is not None
    assert failure.attrib == {"type": "erasure", "message": "This check says fail."}
    assert failure.text == (
        "concept rate: 0.012, upper 0.034; limit ≤ 0.05; n = 240; Clopper-Pearson, one-sided\n"
        f"{POLICY}:21"
    )
    error = case(root, "model", "quality/clip").find("error")
    assert error is not None
    skipped = case(root, "model", "retention/everything else").find("skipped")
    assert skipped is not None
    assert skipped.attrib["message"] == WAIVER
    warned = case(root, "model", "retention/neighbours")
    assert [child.tag for child in warned] == ["system-out"]
    assert (warned[0].text or "").startswith("WARN: ratio is 50%, a bit low:\nlow, yes\n")
    assert list(case(root, "model", "collapse")) == []


def test_counts_are_those_of_the_cases() -> None:
    root = parsed()
    assert [s.attrib["name"] for s in root] == ["model", "onnx engine"]  # the student decides not
    for suite in root:
        for attribute, tag in (
            ("failures", "failure"),
            ("errors", "error"),
            ("skipped", "skipped"),
        ):
            assert int(suite.attrib[attribute]) == len(suite.findall(f"testcase/{tag}"))
        assert int(suite.attrib["tests"]) == len(suite.findall("testcase"))
    assert root.attrib["tests"] == "16"
    assert (root.attrib["failures"], root.attrib["errors"]) == ("1", "1")


def test_rows_for_information_are_cases_only_where_they_say_something() -> None:
    quiet = make_result("erasure/axe", Verdict.PASS, gating=False)
    loud = make_result("erasure/bomb", Verdict.WARN, gating=False)
    gate = make_result("erasure/all", Verdict.PASS)
    root = ET.fromstring(render_junit([make_report((gate, quiet, loud))], POLICY))
    names = [c.attrib["name"] for c in root.iter("testcase")]
    assert names == ["erasure/all", "erasure/bomb"]


def test_what_xml_cannot_hold_is_replaced() -> None:
    row = make_result("erasure/all", Verdict.FAIL, message='<b> & "q" \x00\x1b[31m \ud800 ü')
    text = render_junit([make_report((row,), subject="a\x07<b>")], "p<.yaml")
    root = ET.fromstring(text)
    failure = root.find("testsuite/testcase/failure")
    assert failure is not None
    assert failure.attrib["message"] == '<b> & "q" ��[31m � ü'
    assert root[0].attrib["name"] == "a�<b>"
