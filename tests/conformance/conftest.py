"""Prepares transformers' suites, keeps their warnings to themselves, and counts what they found."""

from collections import Counter

import harness
import pytest

harness.install()

collect_ignore = ["stand_ins"]

MARKERS = (
    *("accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "torch_compile_test"),
    *("is_pipeline_test", "is_training_test", "is_tensor_parallel_test", "is_fsdp_test"),
)
OUTCOMES = ("passed", "failed", "error", "xfailed", "skipped")


def pytest_configure(config: pytest.Config) -> None:
    for name in MARKERS:
        config.addinivalue_line("markers", f"{name}: a mark of transformers' own tests")


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.filterwarnings("ignore"))
    definer = next(base for base in reversed(item.cls.__mro__) if item.originalname in vars(base))
    suite = definer.__name__.removesuffix("TesterMixin").replace("CommonSuites", "Config")
    item.user_properties.append(("suite", suite))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: dict[tuple[str, str], Counter[str]] = {}
    for outcome in OUTCOMES:
        for report in terminalreporter.stats.get(outcome, ()):
            if type(report) is pytest.TestReport and "suite" in dict(report.user_properties):
                row = (report.nodeid.split("::")[1], dict(report.user_properties)["suite"])
                counts.setdefault(row, Counter())[outcome] += 1
    if not counts:
        return
    terminalreporter.section("transformers' suites")
    terminalreporter.line(f"{'class':24}{'suite':16}{'passed':>8}{'failed':>8}{'excluded':>10}{'skipped':>9}")
    for (class_name, suite), found in sorted(counts.items()):
        failed = found["failed"] + found["error"]
        line = f"{class_name:24}{suite:16}{found['passed']:8}{failed:8}{found['xfailed']:10}{found['skipped']:9}"
        terminalreporter.line(line)
