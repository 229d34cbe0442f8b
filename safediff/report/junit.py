"""JUnit XML, as Jenkins and GitLab read it: one suite per subject, one case per check.

FAIL is a failure, INCONCLUSIVE an error, WAIVED is skipped; WARN passes and says why on its
system-out. A row for information is a case only where it says something.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

from safediff.gate.verdict import CheckResult, GateReport, Verdict
from safediff.report.rules import deciding
from safediff.report.wording import bounds_text, limit_text, number_text, says_nothing_alone

ELEMENTS = {Verdict.FAIL: "failure", Verdict.INCONCLUSIVE: "error", Verdict.WAIVED: "skipped"}

_NOT_XML = re.compile(r"[^\t\n\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")
"""Characters that XML 1.0 cannot hold, not even escaped."""


def render_junit(reports: Sequence[GateReport], policy: str) -> str:
    """All reports that decide.

    Args:
        reports: of one policy.
        policy: its path from the root of the repository.
    """
    suites = [_suite(report, policy) for report in deciding(reports)]
    totals = {
        name: str(sum(int(suite.attrib[name]) for suite in suites))
        for name in ("tests", "failures", "errors")
    }
    time = sum(float(suite.attrib["time"]) for suite in suites)
    root = _element("testsuites", name=reports[0].policy_name, time=f"{time:.3f}", **totals)
    root.extend(suites)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _suite(report: GateReport, policy: str) -> ET.Element:
    results = [result for result in report.results if not says_nothing_alone(result)]
    verdicts = [result.verdict for result in results]
    started, finished = map(datetime.fromisoformat, (report.started, report.finished))
    suite = _element(
        "testsuite",
        name=report.subject,
        package=report.policy_name,
        tests=str(len(results)),
        failures=str(verdicts.count(Verdict.FAIL)),
        errors=str(verdicts.count(Verdict.INCONCLUSIVE)),
        skipped=str(verdicts.count(Verdict.WAIVED)),
        timestamp=started.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        time=f"{(finished - started).total_seconds():.3f}",
    )
    properties = ET.SubElement(suite, "properties")
    facts = {
        "verdict": report.verdict.value,
        "policy.sha256": report.policy_sha256,
        "plan.sha256": report.plan_sha256,
        **{f"{part}.sha256": sha256 for part, sha256 in report.model_sha256.items()},
    }
    properties.extend(_element("property", name=name, value=v) for name, v in facts.items())
    suite.extend(_case(report, result, policy) for result in results)
    return suite


def _case(report: GateReport, result: CheckResult, policy: str) -> ET.Element:
    case = _element("testcase", name=result.id, classname=f"{report.policy_name}.{report.subject}")
    if result.verdict is Verdict.PASS:
        return case
    if result.verdict is Verdict.WARN:
        inner = _element("system-out")
        inner.text = _xml(f"WARN: {result.message}\n{_numbers(result, policy)}")
    else:
        inner = _element(ELEMENTS[result.verdict], type=result.kind, message=result.message)
        inner.text = _xml(_numbers(result, policy))
    case.append(inner)
    return case


def _numbers(result: CheckResult, policy: str) -> str:
    """What a reader of a CI log needs to judge the finding."""
    line = f":{result.policy_line}" if result.policy_line is not None else ""
    estimate = number_text(result, "estimate")
    return (
        f"{result.metric}: {estimate}, {bounds_text(result) or 'no interval'}; "
        f"limit {limit_text(result.threshold)}; n = {result.num_samples}; {result.interval}\n"
        f"{policy}{line}"
    )


def _element(tag: str, **attributes: str) -> ET.Element:
    return ET.Element(tag, {name: _xml(value) for name, value in attributes.items()})


def _xml(text: str) -> str:
    """What a parser will read back as it is; line ends become what parsers make of them."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
