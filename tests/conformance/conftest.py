"""Prepares transformers' suites, keeps their warnings to themselves, and compares ours with the library's models."""

from collections import Counter

import harness
import pytest

harness.install()

collect_ignore = ["stand_ins"]

MARKERS = (
    *("accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "torch_compile_test"),
    *("is_pipeline_test", "is_training_test", "is_tensor_parallel_test", "is_fsdp_test"),
)
STOCK = {"MiniBertClassic": "Bert", "MiniBertModern": "Bert", "MiniGPTClassic": "GPT2", "MiniGPTModern": "Llama"}
SAME_MATHS = "test_eager_matches_sdpa_inference"
OVER_PROCESSES = (
    "test_fsdp2_bf16_",
    "test_fsdp2_plan_vs_ddp_",
    "test_fsdp2_save_load",
    "test_fsdp2_sharding_structure",
    "test_hsdp_grad_accumulation_vs_single_device_1_",
)
LONG = ("test_bc_torch_dtype", "test_training_overfit")
RECORDING = ("test_bc_cache_name_forward",)
"""Tests that look for a warning, which they do not turn on themselves."""
OUTCOMES = ("passed", "skipped", "excluded", "failed")  # the worst last

found: dict[tuple[str, str], str] = {}
suites: dict[tuple[str, str], str] = {}


def pytest_configure(config: pytest.Config) -> None:
    config.option.reportchars = "fE"  # not the many that are skipped
    for name in MARKERS:
        config.addinivalue_line("markers", f"{name}: a mark of transformers' own tests")


def is_in_half_precision(test: str) -> bool:
    """Whether a test repeats in 16 bits, which most CPUs compute slowly, what another one shows in 32."""
    return test.startswith(SAME_MATHS) and ("_fp16_" in test or "_bf16_" in test)


def is_taken_on_trust(class_name: str, test: str) -> bool:
    """Whether a model of the library runs a test in `make test-slow` only: it takes long, and ours must pass it."""
    decoder = class_name in ("GPT2", "Llama")
    return class_name in STOCK.values() and test.startswith((SAME_MATHS, *LONG, *(OVER_PROCESSES if decoder else ())))


def is_done_by_the_other_architecture(class_name: str, test: str) -> bool:
    """Whether a test over processes is left to the other architecture, which is split by the same plan."""
    return class_name == "MiniGPTClassic" and test.startswith(OVER_PROCESSES)


def pytest_itemcollected(item: pytest.Item) -> None:
    named = item.cls.__name__, item.originalname
    if is_taken_on_trust(*named) or is_done_by_the_other_architecture(*named) or is_in_half_precision(named[1]):
        item.add_marker(pytest.mark.slow)
    item.add_marker(pytest.mark.filterwarnings("always" if item.originalname in RECORDING else "ignore"))
    definer = next(base for base in reversed(item.cls.__mro__) if item.originalname in vars(base))
    suite = definer.__name__.removesuffix("TesterMixin").replace("CommonSuites", "Config")
    item.user_properties.append(("suite", suite))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep a test's worst outcome; a subtest matters if it fails."""
    suite = dict(report.user_properties).get("suite")
    is_subtest = type(report) is not pytest.TestReport
    says_something = report.failed or (not is_subtest and (report.when == "call" or report.skipped))
    if suite is None or not says_something:
        return
    _, class_name, test = report.nodeid.split("::")
    outcome = "excluded" if "wasxfail" in vars(report) else report.outcome
    suites[class_name, test] = suite
    found[class_name, test] = max(outcome, found.get((class_name, test), "passed"), key=OUTCOMES.index)


def unexplained() -> list[str]:
    """What a model of the library passes and ours neither passes nor excludes; a failure speaks for itself."""

    def passes(stock: str, test: str) -> bool:
        return is_taken_on_trust(stock, test) or found.get((stock, test)) == "passed"

    return [
        f"{class_name}::{test}: {STOCK[class_name]} passes, ours is skipped; say why in exclusions.py"
        for (class_name, test), outcome in sorted(found.items())
        if outcome == "skipped" and passes(STOCK.get(class_name, ""), test)
    ]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if unexplained():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = Counter((class_name, suites[class_name, test], outcome) for (class_name, test), outcome in found.items())
    terminalreporter.section("transformers' suites")
    terminalreporter.line(f"{'class':18}{'suite':16}" + "".join(f"{outcome:>9}" for outcome in OUTCOMES))
    for class_name, suite in sorted({row[:2] for row in rows}):
        counts = "".join(f"{rows[class_name, suite, outcome]:9}" for outcome in OUTCOMES)
        terminalreporter.line(f"{class_name:18}{suite:16}{counts}")
    for line in unexplained():
        terminalreporter.line(line, red=True)
