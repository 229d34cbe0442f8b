"""HTML and SVG elements whose text is escaped by construction."""

from html import escape


class Html(str):
    """Text that is markup already and is not escaped again."""

    __slots__ = ()


Attribute = str | int | float | bool | None

VOID = frozenset({"meta", "img", "br"})


def el(name: str, /, *children: str, **attributes: Attribute) -> Html:
    """Make one element.

    Args:
        name: of the element.
        children: ``Html`` stays as it is, any other text is escaped.
        attributes: underscores become hyphens, a trailing one is dropped (``class_``); True gives
            a bare attribute, None and False give none. Floats are rounded to 2 digits.
    """
    pairs = []
    for key, value in attributes.items():
        label = key.rstrip("_").replace("_", "-")
        if value is True:
            pairs.append(f" {label}")
        elif value is not None and value is not False:
            pairs.append(f' {label}="{escape(_text(value))}"')
    start = f"<{name}{''.join(pairs)}>"
    return Html(start if name in VOID else f"{start}{join(*children)}</{name}>")


def join(*children: str) -> Html:
    """Put elements and texts one after another; texts are escaped."""
    return Html("".join(c if isinstance(c, Html) else escape(c) for c in children))


def _text(value: Attribute) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
