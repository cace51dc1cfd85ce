"""The report of the benchmarks and its chart: what is missed is marked, in words too."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from bench.chart import Bar, draw
from bench.report import Figure, Report, markdown

SVG = "{http://www.w3.org/2000/svg}"


def figure(name: str, value: float, goal: float | None, *, at_least: bool = False) -> Figure:
    return Figure(name, value, f"{value:g}", "a ÷ b", goal, "goal", at_least=at_least)


def test_a_figure_is_judged_by_its_goal_in_the_direction_of_the_goal() -> None:
    assert figure("cpu", 6.0, 3.0).of_goal == 2.0
    assert figure("rate", 0.35, 0.7, at_least=True).of_goal == 2.0
    assert figure("rate", 1.4, 0.7, at_least=True).of_goal == 0.5
    assert figure("shown only", 1.4, None).of_goal is None


def test_the_report_names_what_is_missed_and_the_load_of_the_machine() -> None:
    figures = [figure("cpu", 6.0, 3.0), figure("start", 1.0, 2.0), figure("peak", 9.0, None)]
    text = markdown(Report(figures, tables=["## Peers"], loads=[0.5, 7.0]), "report.svg")
    assert "## 1 of 2 goals are met" in text
    assert "| cpu | 6 | a ÷ b | goal | **missed**, 2.0 times the goal |" in text
    assert "0.5 to 7.0" in text
    assert "shared with other work" in text
    assert "](report.svg)" in text


def test_the_chart_says_the_same_in_words_and_knows_both_themes() -> None:
    bars = [Bar("cpu & memory", 2.0, "6"), Bar("start", 0.5, "1.0")]
    chart = ElementTree.fromstring(draw("Speed", bars))
    assert chart.get("role") == "img"
    assert chart.findtext(f"{SVG}title") == "Speed: 1 of 2 goals are met"
    words = chart.findtext(f"{SVG}desc") or ""
    assert words == "cpu & memory: 6, missed: 2.0 times the goal; start: 1.0, met"
    style = chart.findtext(f"{SVG}style") or ""
    assert "prefers-color-scheme: dark" in style
    kinds = [rect.get("class") for rect in chart.iter(f"{SVG}rect")]
    assert kinds == ["back", "missed", "met"]


def test_the_committed_report_and_its_chart_belong_together(root: Path) -> None:
    text = (root / "bench" / "report.md").read_text()
    chart = ElementTree.fromstring((root / "bench" / "report.svg").read_text())
    title = chart.findtext(f"{SVG}title") or ""
    assert title.rpartition(": ")[2] in text
