"""As much of XML Schema as tests/data/junit-10.xsd needs: names, attributes, children, patterns.

Its content models are choices, or one repeated element, so the order of children is free.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

XS = "{http://www.w3.org/2001/XMLSchema}"


class Schema:
    """A schema without namespaces, imports and groups."""

    def __init__(self, path: Path) -> None:
        root = ET.parse(path).getroot()
        self.elements = {e.attrib["name"]: e for e in root.findall(f"{XS}element")}
        self.patterns = {
            f"{kind.attrib['name']}": pattern.attrib["value"]
            for kind in root.findall(f"{XS}simpleType")
            for pattern in kind.iter(f"{XS}pattern")
        }

    def violations(self, element: ET.Element) -> Iterator[str]:
        """What is wrong with an element and everything in it."""
        declared = self.elements.get(element.tag)
        if declared is None:
            yield f"<{element.tag}> is not declared"
            return
        attributes = {a.attrib["name"]: a.attrib for a in declared.iter(f"{XS}attribute")}
        for name, value in element.attrib.items():
            if name not in attributes:
                yield f"<{element.tag}> has no attribute {name}"
                continue
            pattern = self.patterns.get(attributes[name].get("type", ""), "(?s:.*)")
            if not re.fullmatch(pattern, value):
                yield f"<{element.tag} {name}>: {value!r} does not match {pattern}"
        for name, rule in attributes.items():
            if rule.get("use") == "required" and name not in element.attrib:
                yield f"<{element.tag}> lacks {name}"
        kind = declared.find(f"{XS}complexType")
        text = kind is None or kind.get("mixed") == "true"
        parts = (element.text, *(child.tail for child in element))
        if not text and any((part or "").strip() for part in parts):
            yield f"<{element.tag}> holds text"
        allowed = {e.attrib["ref"] for e in declared.iter(f"{XS}element") if "ref" in e.attrib}
        for child in element:
            if child.tag not in allowed:
                yield f"<{element.tag}> may not hold <{child.tag}>"
            yield from self.violations(child)
