"""Elements of a page. Whatever is text stays text: it is escaped when the page is written, never before."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias
from xml.etree import ElementTree as ET

from zdmigrate.compat.formats.escaping import printable
from zdmigrate.compat.summary.phrases import Code, Words

__all__ = ["Child", "document", "element", "sentence"]

Child: TypeAlias = "ET.Element | str | None"


def element(tag: str, *children: Child, **attributes: str) -> ET.Element:
    """An element with children and text; None is left out. ``class_`` is the attribute ``class``, ``a_b`` is ``a-b``."""
    made = ET.Element(tag, {key.rstrip("_").replace("_", "-"): printable(text) for key, text in attributes.items()})
    for child in children:
        if isinstance(child, str):
            _append(made, printable(child))
        elif child is not None:
            made.append(child)
    return made


def _append(parent: ET.Element, text: str) -> None:
    if len(parent):
        parent[-1].tail = (parent[-1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text


def sentence(words: Words) -> list[Child]:
    """A sentence, with its code as such."""
    return [element("code", word.text) if isinstance(word, Code) else word for word in words]


def document(head: Iterable[ET.Element], body: Iterable[ET.Element]) -> str:
    """A whole page."""
    root = element("html", element("head", *head), element("body", *body), lang="en")
    return "<!doctype html>\n" + ET.tostring(root, encoding="unicode", method="html") + "\n"
