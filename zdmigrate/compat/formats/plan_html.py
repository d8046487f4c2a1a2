"""A plan as a section of the page, in the words of `zdmigrate plan`."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from zdmigrate import plan_words
from zdmigrate.compat.formats.elements import element
from zdmigrate.compat.summary.phrases import counted
from zdmigrate.plan import PhasePlan, Plan, Step

__all__ = ["plan_section"]


def plan_section(plan: Plan, number: int) -> Element:
    """What every phase does: gates, warnings, and each step's SQL, locks and undo."""
    key = f"plan-{number}"
    return element(
        "section",
        element("h2", f"Plan of {plan.migration}", id=key),
        element("ul", *(element("li", fact) for fact in plan_words.facts(plan))),
        *(_phase(plan, part) for part in plan.phases),
        aria_labelledby=key,
    )


def _phase(plan: Plan, part: PhasePlan) -> Element:
    title = f"{part.phase}: {counted(len(part.steps), 'step') if part.steps else 'nothing to do'}"
    notes = list(_notes(plan, part))
    return element(
        "details",
        element("summary", element("h3", title)),
        element("ul", *notes) if notes else None,
        *(_step(plan, step) for step in part.steps),
    )


def _notes(plan: Plan, part: PhasePlan) -> Iterator[Element]:
    for gate in part.gates:
        yield element("li", element("strong", "gate"), f" {plan_words.gate_text(gate)}")
    for hazard in plan.hazards:
        if hazard.phase is part.phase:
            text = f" {hazard.message}: {hazard.remedy}{plan_words.acceptance(hazard.accept)}"
            yield element("li", element("strong", hazard.id), text)


def _step(plan: Plan, step: Step) -> Element:
    facts = [
        cell for key, text in plan_words.step_facts(plan, step) for cell in (element("dt", key), element("dd", text))
    ]
    undo = plan_words.undo_sql(step)
    return element(
        "article",
        element("h4", step.title),
        _sql(plan_words.step_sql(step)),
        element("dl", *facts),
        element("p", "To undo it:", class_="muted") if undo else None,
        _sql(undo) if undo else None,
    )


def _sql(lines: list[str]) -> Element:
    return element("pre", element("code", "\n".join(lines)))
