"""How fast models answer: vectors of texts, generation, and the first prediction after a cold start.

::

    python benchmarks/inference_speed.py
    python benchmarks/inference_speed.py --sizes small --texts sentences.txt
    python benchmarks/inference_speed.py --kinds generation --threads 1
    python benchmarks/inference_speed.py --kinds int8 --encoder runs/minibert --measure_on valid.jsonl.xz

Ours and the stock class of the same shape and weights take turns, and who begins changes, so that other work on the
machine slows all of them alike. A variant's figure is its median, in seconds: of this process's CPU time on a CPU, of
the clock elsewhere. A ratio is to the first variant of its table.

* Vectors: `hf_minibert.encode` against the stock class with rows padded to the longest of their batch: in random order,
  32 a batch, as a plain script does it, and sorted by length, 8 a batch. Tokenizing counts, and the vectors must agree.
* Generation: greedy, with a cache, against stock Llama, one text and eight at a time. The tokens must agree. Two
  variants have the cache that `generate` makes by default, two a static one and a compiled step, which transformers
  makes on a CPU only if a private switch, that MiniGPT sets itself, is set for stock, too.
* Cold start: a new process that imports the library, opens a folder and predicts one masked word, against stock BERT
  of the same shape; the time is that process's CPU time.
* 8-bit numbers: vectors by onnxruntime, from the graphs that `hf-minibert export --to onnx --quantize int8` writes,
  against the model itself in torch; all read the same rows, sorted by length, 8 a batch. With `--encoder`, a masked-LM
  checkpoint, and `--measure_on` also what it costs: the accuracy on masked tokens of that text.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import CompileConfig, PreTrainedTokenizerFast

import hf_minibert
from hf_minibert import MiniBertForMaskedLM, MiniBertModel, MiniGPTForCausalLM
from hf_minibert.command_line import invocation, run
from hf_minibert.data.corpus import open_corpus
from hf_minibert.data.sources import BUILTIN
from hf_minibert.errors import UserError
from hf_minibert.evaluation.samples import SENTENCE
from hf_minibert.export.stock import to_stock
from hf_minibert.presets import build_config
from hf_minibert.runs.hardware import hardware, now
from hf_minibert.tokenization import OWN_TOKENIZER, adapt_tokenizer, load_tokenizer, save_tokenizer
from peers import peer_model
from runs import Benchmark, device, environment, machine, unless_usual, write_results
from step_speed import rotated

SEED = 0
PROMPT_TOKENS, NEW_TOKENS = 32, 64
COMPILED = "MiniGPTForCausalLM, static cache, compiled"
LARGEST_DIFFERENCE = 1e-3  # of vectors, between two ways to compute them
START = """
import sys
{imports}
from transformers import AutoModelForMaskedLM, AutoTokenizer
import torch
model = AutoModelForMaskedLM.from_pretrained(sys.argv[1]).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
inputs = tokenizer("The [MASK] is here.", return_tensors="pt")
with torch.inference_mode():
    place = (inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero()[0, 0]
    print(tokenizer.decode([int(model(**inputs).logits[0, place].argmax())]))
"""


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """Measure vectors, generation and cold starts of our models and the stock ones, interleaved."""

    sizes: list[str] = field(default_factory=lambda: ["mini"])
    """Shapes: tiny, mini, small, medium."""
    kinds: list[str] = field(default_factory=lambda: ["vectors", "generation", "cold_start"])
    """What to measure; also int8, which needs the extra onnx."""
    encoder: str | None = None
    """Checkpoint that int8 is measured on. Default: new weights of each size."""
    measure_on: str | None = None
    """Text on which to measure what int8 costs an --encoder."""
    texts: str | None = None
    """File of texts to encode, one a line. Default: sentences of the builtin corpus."""
    num_texts: int = 1_000
    """How many of them, drawn at random."""
    rounds: int = 5
    """Measured turns of each variant."""
    threads: int | None = None
    """Threads that compute. Default: as many as the machine has cores."""


def sentences(arguments: Arguments) -> list[str]:
    """The texts to encode, in random order."""
    if arguments.texts is not None:
        found = [line for line in Path(arguments.texts).read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        found = [match[1] for one in open_corpus([BUILTIN]) for match in SENTENCE.finditer("\n" + one.text)]
    if len(found) < arguments.num_texts:
        raise UserError(f"there are {len(found)} texts, fewer than num_texts {arguments.num_texts}; ask for fewer")
    order = np.random.default_rng(SEED).permutation(len(found))[: arguments.num_texts]
    return [found[place] for place in order]


def seconds(at: torch.device) -> float:
    """Seconds that tell how much was computed: of this process on a CPU, which others do not lengthen."""
    return time.process_time() if at.type == "cpu" else now(at)


def seconds_of_children() -> float:
    """CPU seconds of the processes that this one has started, and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def take_turns(
    variants: dict[str, Callable[[], Any]], rounds: int, words: str, clock: Callable[[], float]
) -> list[dict[str, Any]]:
    """The median time of each variant, and its ratio to the first one's."""
    names, times = list(variants), {name: list[float]() for name in variants}
    for number in tqdm(range(rounds), desc=words):
        for place in rotated(range(len(names)), number):
            name = names[place]
            begin = clock()
            variants[name]()
            times[name].append(clock() - begin)
    medians = {name: statistics.median(some) for name, some in times.items()}
    first = medians[names[0]]
    return [
        {
            "variant": name,
            "seconds": round(medians[name], 4),
            "ratio": round(first / medians[name], 2),
            "spread": round((max(some) - min(some)) / medians[name], 2),
        }
        for name, some in times.items()
    ]


@torch.inference_mode()
def padded(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    rows: int,
    *,
    is_sorted: bool,
    states_of: Callable[[dict[str, Tensor]], Tensor] | None = None,
) -> Tensor:
    """Means of the states, (texts, hidden), from rows that are padded to the longest of their batch.

    The states are the model's last ones, or those that `states_of` computes of the same inputs.
    """
    order = sorted(range(len(texts)), key=lambda place: len(texts[place])) if is_sorted else list(range(len(texts)))
    vectors = torch.empty(len(texts), model.config.hidden_size)
    for start in range(0, len(order), rows):
        places = order[start : start + rows]
        inputs = tokenizer(
            [texts[place] for place in places], padding=True, truncation=True, max_length=512, return_tensors="pt"
        ).to(model.device)
        real = inputs["attention_mask"][..., None]
        given = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        states = model(**given).last_hidden_state if states_of is None else states_of(given)
        vectors[places] = ((states * real).sum(dim=1) / real.sum(dim=1)).float().cpu()
    return vectors


def encoding(size: str, architecture: str, texts: list[str], arguments: Arguments, at: torch.device) -> dict[str, Any]:
    """The table of vectors."""
    torch.manual_seed(SEED)
    config: Any = build_config(f"minibert-{size}", architecture, residual_init="normal")
    model: Any = MiniBertModel(config)
    model.to(at).eval()
    stock: Any = to_stock(model, None, mask_token_id=4)
    plain = load_tokenizer(OWN_TOKENIZER)
    tokenizer = adapt_tokenizer(plain, model_type="minibert", uses_token_types=False, model_max_length=512)
    name = type(stock).__name__
    variants: dict[str, Callable[[], Any]] = {
        f"stock {name}, random order, padded, 32 a batch": lambda: padded(stock, tokenizer, texts, 32, is_sorted=False),
        f"stock {name}, sorted, padded, 8 a batch": lambda: padded(stock, tokenizer, texts, 8, is_sorted=True),
        f"stock {name}, encode": lambda: torch.from_numpy(hf_minibert.encode(texts, stock, tokenizer)),
        "MiniBertModel, encode": lambda: torch.from_numpy(hf_minibert.encode(texts, model, tokenizer)),
    }
    vectors = [variant() for variant in variants.values()]  # which also warms up
    difference = max(float((one - vectors[0]).abs().max()) for one in vectors)
    if difference > LARGEST_DIFFERENCE:
        raise RuntimeError(f"vectors of minibert-{size}, {architecture}, differ by {difference}: nothing was timed")
    lengths = [len(ids) for ids in tokenizer(texts, truncation=True, max_length=512)["input_ids"]]
    return {
        "kind": "vectors",
        "model": f"minibert-{size}",
        "architecture": architecture,
        "texts": len(texts),
        "tokens": sum(lengths),
        "length_percentiles": np.percentile(lengths, [0, 25, 50, 75, 100]).tolist(),
        "largest_difference": difference,
        "rows": take_turns(variants, arguments.rounds, f"vectors, {size}, {architecture}", partial(seconds, at)),
    }


def generation(size: str, batch: int, arguments: Arguments, at: torch.device) -> dict[str, Any]:
    """The table of generation with a cache."""
    torch.manual_seed(SEED)
    config: Any = build_config(f"minigpt-{size}", "modern", residual_init="normal")
    model: Any = MiniGPTForCausalLM(config)
    model.to(at).eval()
    stock: Any = to_stock(model, None, mask_token_id=4)
    prompts = torch.randint(5, model.config.vocab_size, (batch, PROMPT_TOKENS)).to(at)
    settings: dict[str, Any] = {
        "attention_mask": torch.ones_like(prompts),
        "max_new_tokens": NEW_TOKENS,
        "min_new_tokens": NEW_TOKENS,
        "do_sample": False,
        "pad_token_id": 0,
    }
    step = CompileConfig(fullgraph=True)
    step._compile_all_devices = True  # type: ignore[assignment]  # without it, a CPU compiles no stock model
    compiled = {"cache_implementation": "static", "compile_config": step} | settings
    variants: dict[str, Callable[[], Tensor]] = {
        f"stock {type(stock).__name__}": lambda: stock.generate(prompts, **settings),
        "MiniGPTForCausalLM": lambda: model.generate(prompts, **settings),
        f"stock {type(stock).__name__}, static cache, compiled": lambda: stock.generate(prompts, **compiled),
        COMPILED: lambda: model.generate(prompts, **compiled),
    }
    torch.compiler.reset()
    begin = now(at)
    written = [variants[COMPILED]()]
    compile_seconds = now(at) - begin
    written += [variant() for variant in variants.values()]
    if any(not torch.equal(one, written[0]) for one in written):
        raise RuntimeError(
            f"minigpt-{size} and its stock class write other tokens, {batch} at a time: nothing was timed"
        )
    return {
        "kind": "generation",
        "model": f"minigpt-{size}",
        "batch": batch,
        "new_tokens": NEW_TOKENS,
        "compile_seconds": round(compile_seconds, 1),
        "rows": take_turns(variants, arguments.rounds, f"generation, {size}, {batch} at a time", partial(seconds, at)),
    }


def eight_bits(size: str, arguments: Arguments, at: torch.device) -> dict[str, Any]:
    """The table of onnxruntime with matrices of 8 bits."""
    from hf_minibert.export.onnx import FILE, QUANTIZED_FILE, Session, export

    texts = sentences(arguments)
    torch.manual_seed(SEED)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.encoder is None:
            config: Any = build_config(f"minibert-{size}", "modern")
            model: Any = MiniBertModel(config)
            tokenizer = load_tokenizer(OWN_TOKENIZER)
            cost = {}
        else:
            model = MiniBertModel.from_pretrained(arguments.encoder, dtype=torch.float32)
            tokenizer = load_tokenizer(arguments.encoder)
            record = export(
                arguments.encoder, f"{folder}/head", quantize="int8", measure_on=arguments.measure_on
            )  # with its head, which the cost is measured by
            cost = {name: record["int8"].get(name) for name in ("file", "examples", "fp32", "int8")}
        tokenizer = adapt_tokenizer(tokenizer, model_type="minibert", uses_token_types=False, model_max_length=512)
        model.to(at).eval().save_pretrained(f"{folder}/model")
        save_tokenizer(tokenizer, Path(folder, "model"))
        record = export(f"{folder}/model", f"{folder}/onnx", quantize="int8")
        sessions = {
            f"onnxruntime, {words}": Session(Path(folder, "onnx", file))
            for words, file in (("fp32", FILE), ("int8", QUANTIZED_FILE))
        }
        batches = partial(padded, model, tokenizer, texts, 8, is_sorted=True)
        variants: dict[str, Callable[[], Tensor]] = {"MiniBertModel in torch, fp32": batches}
        for name, session in sessions.items():
            variants[name] = partial(batches, states_of=lambda inputs, session=session: session(inputs)[0])
        first, *others = (variant() for variant in variants.values())
        return {
            "kind": "int8",
            "model": f"minibert-{size}" if arguments.encoder is None else Path(arguments.encoder).name,
            "texts": len(texts),
            "bytes": {"fp32": record["bytes"], "int8": record["int8"]["bytes"]},
            "least_cosine": {
                name: float(torch.cosine_similarity(first, one).min())
                for name, one in zip(sessions, others, strict=True)
            },
            "cost": cost,
            "rows": take_turns(variants, arguments.rounds, f"int8, {size}", partial(seconds, at)),
        }


def cold_start(size: str, arguments: Arguments) -> dict[str, Any]:
    """The table of first predictions, in a new process each."""
    torch.manual_seed(SEED)
    tokenizer = load_tokenizer(OWN_TOKENIZER)
    config: Any = build_config(f"minibert-{size}", "modern")
    found: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        models: tuple[tuple[str, Any, str], ...] = (
            ("stock BertForMaskedLM", peer_model("stock", "minibert", size, len(tokenizer)), ""),
            ("MiniBertForMaskedLM", MiniBertForMaskedLM(config), "import hf_minibert"),
        )
        for name, model, imports in models:
            place = Path(folder) / name.replace(" ", "-")
            model.save_pretrained(place)
            save_tokenizer(tokenizer, place)
            words = [sys.executable, "-c", START.format(imports=imports), str(place)]

            def start(words: list[str] = words) -> None:
                subprocess.run(words, check=True, capture_output=True)

            start()
            found[name] = start
        rows = take_turns(found, arguments.rounds, f"cold start, {size}", seconds_of_children)
    return {"kind": "cold start", "model": f"minibert-{size}", "rows": rows}


def encodings(size: str, arguments: Arguments, at: torch.device) -> list[dict[str, Any]]:
    """The tables of vectors, of either architecture."""
    texts = sentences(arguments)
    return [encoding(size, architecture, texts, arguments, at) for architecture in ("classic", "modern")]


KINDS: dict[str, Callable[[str, Arguments, torch.device], list[dict[str, Any]]]] = {
    "vectors": encodings,
    "generation": lambda size, arguments, at: [generation(size, batch, arguments, at) for batch in (1, 8)],
    "cold_start": lambda size, arguments, _: [cold_start(size, arguments)],
    "int8": lambda size, arguments, at: [eight_bits(size, arguments, at)],
}


def table(figures: dict[str, Any]) -> list[str]:
    """Times and ratios."""
    lines = []
    for each in figures["tables"]:
        words = {
            "vectors": "vectors of {texts:,} texts, {tokens:,} tokens, {architecture}",
            "generation": "{new_tokens} tokens after a prompt, {batch} at a time",
            "cold start": "first prediction of a new process",
            "int8": "vectors of {texts:,} texts",
        }[each["kind"]].format(**each)
        if "compile_seconds" in each:
            words += f" (compiling: {each['compile_seconds']:.0f} s)"
        lines += [f"| {each['model']}: {words} | seconds | times as fast | spread |", "|---|---:|---:|---:|"]
        lines += [
            f"| {row['variant']} | {row['seconds']:.3f} | {row['ratio']:.2f} | {row['spread']:.0%} |"
            for row in each["rows"]
        ]
        lines += ["", *price(each)] if each["kind"] == "int8" else [""]
    threads = f"{figures['threads']} thread{'s' if figures['threads'] > 1 else ''}"
    return [*lines, f"({figures['hardware']}, {threads}, median of {figures['rounds']}; `{figures['command']}`)"]


def price(each: dict[str, Any]) -> list[str]:
    """What 8-bit numbers cost and save."""
    size, cost = each["bytes"], each["cost"]
    words = f"{size['int8'] / 1e6:.1f} MB in place of {size['fp32'] / 1e6:.1f}; "
    words += f"a text's vector and torch's have a cosine of {each['least_cosine']['onnxruntime, int8']:.3f} at least"
    if cost.get("file") is not None:
        fp32, int8 = cost["fp32"], cost["int8"]
        words += (
            f"; of {cost['examples']:,} masked tokens in {cost['file']}, {int8['accuracy']:.2%} are right in place of "
            f"{fp32['accuracy']:.2%}, at {int8['loss']:.3f} in place of {fp32['loss']:.3f} nats"
        )
    return [f"({words}.)", ""]


def main(arguments: Arguments) -> int:
    """All tables, printed and written."""
    unknown = [kind for kind in arguments.kinds if kind not in KINDS]
    if unknown:
        raise UserError(f"kinds must be of {', '.join(KINDS)}, got {', '.join(unknown)}; choose among them")
    at = device()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    every = [(kind, size) for size in arguments.sizes for kind in arguments.kinds]
    # Or an earlier run would have compiled it. (The module gets `patch` when it is imported.)
    with torch.compiler.config.patch(force_disable_caches=True):  # type: ignore[attr-defined]
        tables = [made for kind, size in every for made in KINDS[kind](size, arguments, at)]
    figures = {
        "command": invocation(),
        "hardware": hardware(at),
        "threads": torch.get_num_threads(),
        "rounds": arguments.rounds,
        "seed": SEED,
        "tables": tables,
        "environment": environment(),
    }
    tqdm.write("\n".join(table(figures)), file=sys.stdout)
    texts = [] if arguments.texts is None else [Path(arguments.texts).stem]
    what = [*unless_usual(arguments, "sizes", "kinds"), *texts]
    write_results(arguments.results / f"{'-'.join(('inference_speed', *what, *machine()))}.json", figures)
    return 0


if __name__ == "__main__":
    run(Arguments, main)
