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
OUTCOMES = ("skipped", "passed", "xfailed", "failed", "error")
COUNTERPARTS = {"MiniBertClassic": "Bert", "MiniBertModern": "Bert", "MiniGPTClassic": "GPT2", "MiniGPTModern": "Llama"}


def pytest_configure(config: pytest.Config) -> None:
    for name in MARKERS:
        config.addinivalue_line("markers", f"{name}: a mark of transformers' own tests")
    config.option.reportchars = "fEX"  # not the many skipped


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.filterwarnings("ignore"))
    definer = next(base for base in reversed(item.cls.__mro__) if item.originalname in vars(base))
    suite = definer.__name__.removesuffix("TesterMixin").replace("CommonSuites", "Config")
    item.user_properties.append(("suite", suite))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    suites, found = {}, {}
    for outcome in OUTCOMES:  # the worst last; a test has failed if a subtest has
        for report in terminalreporter.stats.get(outcome, ()):
            suites |= {report.nodeid: dict(report.user_properties).get("suite")}
            if type(report) is pytest.TestReport or report.failed:
                found[report.nodeid] = outcome
    rows = Counter((name.split("::")[1], suites[name], outcome) for name, outcome in found.items() if suites[name])
    terminalreporter.section("transformers' suites")
    terminalreporter.line(f"{'class':20}{'suite':16}" + "".join(f"{outcome:>9}" for outcome in OUTCOMES))
    for class_name, suite in sorted({row[:2] for row in rows}):
        cells = (f"{rows[class_name, suite, outcome]:9}" for outcome in OUTCOMES)
        terminalreporter.line(f"{class_name:20}{suite:16}" + "".join(cells))
    passed = {tuple(name.split("::")[1:]) for name, outcome in found.items() if outcome == "passed"}
    for ours, stock in COUNTERPARTS.items():
        for class_name, test in sorted(passed):
            if class_name == stock and (ours, test) not in passed:
                terminalreporter.line(f"{stock} passes {test}, {ours} does not")
