"""A checkpoint as an ONNX graph, in the layout that transformers.js reads; checked by onnxruntime before it is written.

The graph computes what the checkpoint does, for any batch and length. A decoder takes keys and values of earlier
tokens and returns the new ones. Names and files are those of optimum and transformers.js: `onnx/model.onnx`,
`onnx/model_quantized.onnx`, and beside them the stock class's `config.json` and the tokenizer.
"""

import functools
import json
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from hf_minibert.errors import UserError, needs_extra
from hf_minibert.export.convert import is_ours, largest_relative, open_checkpoint
from hf_minibert.export.cost import MEASURED, measure
from hf_minibert.export.folder import describe, exported_folder, shown_name
from hf_minibert.export.javascript import spell_out_classes
from hf_minibert.export.stock import from_stock, to_stock
from hf_minibert.models.caches import CACHE_NAME
from hf_minibert.models.modeling_minibert import MiniBertForSequenceClassification
from hf_minibert.tokenization import save_tokenizer

FILE, QUANTIZED_FILE = "onnx/model.onnx", "onnx/model_quantized.onnx"
TOLERANCE = 1e-4
FEW = 1_000
"""Fewer predictions than these tell two graphs apart by chance only."""
SHAPES = ((1, 1, 0), (1, 7, 0), (3, 5, 0), (2, 1, 6), (1, 24, 3))
"""Batch, tokens and, of a decoder, earlier tokens of the rows with which a graph is compared with its checkpoint."""
OUTPUTS = {
    "Model": ("last_hidden_state",),
    "ForMaskedLM": ("logits",),
    "ForCausalLM": ("logits",),
    "ForSequenceClassification": ("logits",),
    "ForTokenClassification": ("logits",),
    "ForNextSentencePrediction": ("logits",),
    "ForQuestionAnswering": ("start_logits", "end_logits"),
    "ForPreTraining": ("prediction_logits", "seq_relationship_logits"),
}
PIPELINES = {
    "Model": "feature-extraction",
    "ForMaskedLM": "fill-mask",
    "ForCausalLM": "text-generation",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
}
"""What transformers.js calls the use of each head."""


def export(
    name_or_path: str,
    output_dir: str,
    *,
    to: str | None = None,  # noqa: ARG001
    quantize: str | None = None,
    measure_on: str | None = None,
) -> dict[str, Any]:
    """Write an ONNX folder. Unchanged files of an earlier export there are replaced.

    Args:
        name_or_path: a checkpoint of ours, or of a stock class that has a counterpart here.
        output_dir: the folder to write.
        to: not needed; all targets take it.
        quantize: `int8`: also write a graph whose matrices are 8-bit numbers.
        measure_on: a file on which to measure what `quantize` costs; see `cost.measure`.

    Returns:
        What `export.json` says.

    Raises:
        UserError: a library is missing, the checkpoint cannot be opened or has no stock class, onnxruntime computes
            something else, or the folder holds something else.
    """
    with exported_folder(name_or_path, output_dir, last="config.json") as folder:
        record = fill(folder, name_or_path, quantize=quantize, measure_on=measure_on)
        describe(
            folder,
            name_or_path,
            record,
            opening(record, '"."'),
            lost=" ".join(record["notes"]),
            library="transformers.js",
            tags=("onnx",),
            pipeline=record["pipeline"],
            language="javascript",
            from_hub="take out the line with `localModelPath`, and give its name in place of `resolve(...)`",
        )
    return record


def fill(
    folder: Path,
    name_or_path: str,
    *,
    quantize: str | None = None,
    measure_on: str | None = None,
    classes: Sequence[str] = (),
) -> dict[str, Any]:
    """Write graphs, configuration and tokenizer into a folder, and return the record; arguments as `export`.

    `classes`, if given, are the stock classes that the folder may hold.

    Raises:
        UserError: as `export`.
    """
    with needs_extra("onnx"):
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # torch.onnx needs it

    if measure_on and not quantize:
        raise UserError("measure_on measures what --quantize int8 costs; give that, too")
    model, tokenizer = open_checkpoint(name_or_path)
    if measure_on and PIPELINES.get(head_of(model)) not in MEASURED:
        raise UserError(f"measure_on is for {', '.join(MEASURED)}, not for a {type(model).__name__}; leave it out")
    stock = named_stock(model, tokenizer.mask_token_id)
    if classes and gives_a_number(model):
        raise UserError(
            f"{name_or_path} gives a number, which the page would show as a share; show it without --static, or export "
            "it to onnx"
        )
    if classes and type(stock).__name__ not in classes:
        raise UserError(
            f"{name_or_path} is a {type(model).__name__}, in stock classes a {type(stock).__name__}, for which there "
            f"is no page; there is one for {', '.join(classes)}"
        )
    graph = Graph(model if is_ours(model) else from_stock(model))
    (folder / "onnx").mkdir()
    write_graph(graph, folder / FILE)
    difference = largest_difference(graph, folder / FILE)
    if not difference <= TOLERANCE:
        raise UserError(
            f"onnxruntime and the {type(model).__name__} differ by {difference:.1e}, more than {TOLERANCE}, which "
            "should not be; nothing was written"
        )
    stock.config.architectures = [type(stock).__name__]
    stock.config.dtype = torch.float32
    stock.config.save_pretrained(folder)
    if stock.can_generate():
        stock.generation_config.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    spell_out_classes(folder)
    record = {
        "model": shown_name(name_or_path),
        "from": type(model).__name__,
        "to": f"{type(stock).__name__} in ONNX",
        "pipeline": PIPELINES.get(head_of(model)),
        "reads_pairs": is_pair_classifier(model),
        "gives_a_number": gives_a_number(model),
        "mask_token": tokenizer.mask_token,
        "inputs": graph.names,
        "outputs": graph.output_names,
        "shapes": SHAPES,
        "largest_difference": difference,
        "bytes": (folder / FILE).stat().st_size,
        "onnx_version": onnx.__version__,
        "onnxruntime_version": onnxruntime.__version__,
        "torch_version": torch.__version__,
        "transformers_version": transformers.__version__,
    }
    if quantize:
        quantize_graph(folder / FILE, folder / QUANTIZED_FILE)
        record["int8"] = {"bytes": (folder / QUANTIZED_FILE).stat().st_size}
    if measure_on:
        models = {"fp32": Session(folder / FILE), "int8": Session(folder / QUANTIZED_FILE)}
        record["int8"] |= measure(
            {name: functools.partial(run_once, graph, session) for name, session in models.items()},
            tokenizer,
            graph.model.config,
            record["pipeline"],
            measure_on,
        )
    record["notes"] = notes(record)
    return record


def named_stock(model: PreTrainedModel, mask_token_id: int | None) -> PreTrainedModel:
    """The stock model whose class and configuration tell a runtime what a graph is.

    How the graph pools a text is written in the graph. So a pooling that the stock class lacks stands in nobody's way:
    then the model that is returned differs in it, and its weights are new.

    Raises:
        UserError: there is no stock class.
    """
    if not is_ours(model):
        return model
    own = getattr(model.config, "classifier_pooling", None)
    if own not in (None, "cls") and isinstance(model, MiniBertForSequenceClassification):
        is_mean = own == "mean" and model.config.norm_placement == "pre"  # which EuroBERT has
        fields = model.config.to_dict() | {"classifier_pooling": "mean" if is_mean else "cls"}
        model = model if is_mean else MiniBertForSequenceClassification(type(model.config)(**fields))
    return to_stock(model, mask_token_id=mask_token_id)


def is_pair_classifier(model: PreTrainedModel) -> bool:
    """Whether a model compares two texts."""
    return getattr(model.config, "compares_texts", False) and head_of(model) == "ForSequenceClassification"


def gives_a_number(model: PreTrainedModel) -> bool:
    """Whether a classifier has one output, of which transformers.js would make a share of 100%."""
    is_one = model.config.num_labels == 1 and model.config.problem_type != "multi_label_classification"
    return head_of(model) == "ForSequenceClassification" and (is_one or model.config.problem_type == "regression")


def head_of(model: PreTrainedModel) -> str:
    """What stands behind the architecture in a class's name: `ForMaskedLM`, `Model`."""
    name = type(model).__name__.replace("GPT2LMHeadModel", "GPT2ForCausalLM")
    heads = [head for head in (*OUTPUTS, "ForMultipleChoice") if name.endswith(head)]
    return heads[0]


class Graph(nn.Module):
    """A model as a function of named tensors, under the names that ONNX runtimes know."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        head = head_of(model)
        if head not in OUTPUTS:
            raise UserError(f"{type(model).__name__} has no ONNX form: its input is choices; export its encoder")
        self.model = nn.Module.to(model, dtype=torch.float32).eval()
        self.model.set_attn_implementation("eager")
        self.has_cache = model.can_generate()
        self.outputs = OUTPUTS[head]
        config = model.config
        caches = [f"{index}.{part}" for index in range(config.num_hidden_layers) for part in ("key", "value")]
        self.caches = caches if self.has_cache else []
        self.names = ["input_ids", "attention_mask"]
        if self.has_cache:
            self.names += ["position_ids", *(f"past_key_values.{name}" for name in self.caches)]
        elif getattr(config, "type_vocab_size", 0):
            self.names.append("token_type_ids")
        self.output_names = [*self.outputs, *(f"present.{name}" for name in self.caches)]

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """The head's outputs, then the keys and values of each layer, (batch, heads, sequence, head_dim)."""
        given: dict[str, Any] = {name: inputs[name] for name in self.names if name not in self.past_names}
        cache = None
        if self.has_cache:
            cache = DynamicCache()
            for index in range(len(self.caches) // 2):
                key, value = (inputs[f"past_key_values.{index}.{part}"] for part in ("key", "value"))
                cache.update(key, value, index)
            given |= {CACHE_NAME: cache, "use_cache": True}
        outputs = self.model(**given, return_dict=True)
        results = [outputs[name] for name in self.outputs]
        layers: Any = cache.layers if cache is not None else ()
        for layer in layers:
            results += [layer.keys, layer.values]
        return tuple(results)

    @property
    def past_names(self) -> list[str]:
        """The inputs that are keys and values of earlier tokens."""
        return [f"past_key_values.{name}" for name in self.caches]

    def example(self, batch: int, length: int, earlier: int) -> dict[str, Tensor]:
        """Inputs of a shape, with padding at the end of the last of several rows, or at a decoder's beginning.

        A model with learned positions gets no more tokens than it has of them.
        """
        config, generator = self.model.config, torch.Generator().manual_seed(0)
        if config.position_embedding_type == "absolute":
            length = min(length, config.max_position_embeddings)
            earlier = min(earlier, config.max_position_embeddings - length)
        earlier = earlier if self.has_cache else 0
        mask = torch.ones(batch, earlier + length, dtype=torch.long)
        if batch > 1 and mask.shape[1] > 1:
            mask[-1, 0 if self.has_cache else -1] = 0
        ids = torch.randint(0, config.vocab_size, (batch, length), generator=generator)
        if is_pair_classifier(self.model):
            ids[:, length // 2] = config.eos_token_id  # the end of the first text
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self.has_cache:
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, earlier:]
            shape = (batch, config.num_attention_heads, earlier, config.head_dim)
            inputs |= {name: torch.randn(shape, generator=generator) for name in self.past_names}
        elif "token_type_ids" in self.names:
            inputs["token_type_ids"] = torch.arange(length).expand(batch, -1) % config.type_vocab_size
        return inputs


def write_graph(graph: Graph, path: Path) -> None:
    """Export a graph for any batch and length."""
    inputs = graph.example(2, 4, 3)
    axes = {name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in inputs}
    axes |= {name: {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC} for name in graph.past_names}
    with quiet(logging.getLogger("torch.onnx")):
        program = torch.onnx.export(
            graph,
            kwargs={"inputs": inputs},
            dynamo=True,
            dynamic_shapes={"inputs": axes},
            input_names=list(inputs),
            output_names=graph.output_names,
            verbose=False,
        )
    assert program is not None
    program.save(path, external_data=False)


@contextmanager
def quiet(logger: logging.Logger) -> Iterator[None]:
    """Silence what the exporters say of themselves: deprecated calls, packages that they do without, advice."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@torch.no_grad()
def largest_difference(graph: Graph, path: Path) -> float:
    """How far onnxruntime's outputs lie from torch's over all of `SHAPES`, relative to their size (at least 1)."""
    session = Session(path)
    pairs = [pair for shape in SHAPES for pair in _outputs(graph, session, graph.example(*shape))]
    if any(actual.shape != expected.shape for actual, expected in pairs):
        return math.inf
    return largest_relative(pairs)


def _outputs(graph: Graph, session: "Session", inputs: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each output of onnxruntime, and of torch."""
    return zip(session(inputs), graph(inputs), strict=True)


class Session:
    """A graph in onnxruntime, on the CPU."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names = [one.name for one in self.session.get_inputs()]

    def __call__(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """All outputs."""
        results = self.session.run(None, {name: inputs[name].numpy() for name in self.names})
        return [torch.from_numpy(result) for result in results]


def run_once(graph: Graph, session: Session, inputs: dict[str, Tensor]) -> list[Tensor]:
    """The outputs of a graph for whole rows; a decoder gets no earlier tokens."""
    mask = inputs["attention_mask"]
    given = graph.example(len(mask), 1, 0) | inputs | {"position_ids": mask.cumsum(-1) - 1}
    return session(given)


def quantize_graph(source: Path, target: Path) -> None:
    """Write a graph whose matrices and embeddings are 8-bit numbers; activations are scaled as they come.

    The last matrix of a language model is that of the embeddings, turned. It becomes one of its own, or it would stay
    as it is.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    weights = {weight.name: weight for weight in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "Transpose" and node.input[0] in weights]:
        array = onnx.numpy_helper.to_array(weights[node.input[0]])
        order = next((list(one.ints) for one in node.attribute if one.name == "perm"), None)
        turned = array.transpose(order)
        model.graph.initializer.append(onnx.numpy_helper.from_array(turned.copy(), node.output[0]))
        model.graph.node.remove(node)
    with quiet(logging.getLogger()):
        # 7 bits of 8: without VNNI, products of two bytes overflow in their pairwise sums.
        quantize_dynamic(model, target, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)


def notes(record: dict[str, Any]) -> list[str]:
    """What a person should know of a smaller form, a line each."""
    int8 = record.get("int8")
    if int8 is None:
        return []
    lines = [f"{QUANTIZED_FILE} has 8-bit numbers: {int8['bytes']:,} bytes in place of {record['bytes']:,}."]
    if "file" in int8:
        fp32, quantized = int8["fp32"], int8["int8"]
        lines.append(
            f"On {int8['examples']:,} predictions in {int8['file']}: accuracy {quantized['accuracy']:.2%} in place of "
            f"{fp32['accuracy']:.2%}, loss {quantized['loss']:.3f} in place of {fp32['loss']:.3f} nats"
            + ("." if int8["examples"] >= FEW else f". Fewer than {FEW:,} predictions say little: give a longer file.")
        )
    return lines


def opening(record: dict[str, Any], name: str) -> str:
    """JavaScript that opens an export; `name` is the expression for its folder."""
    dtype = "q8" if "int8" in record else "fp32"
    if record["pipeline"] is None:
        return f"""import * as ort from "onnxruntime-node";

const session = await ort.InferenceSession.create({name} + "/{FILE}");
"""
    if record.get("reads_pairs") or record.get("gives_a_number"):
        second = ', { text_pair: "The streets are wet." }' if record.get("reads_pairs") else ""
        return f"""import {{ resolve }} from "node:path";
import {{ AutoModelForSequenceClassification, AutoTokenizer, env }} from "@huggingface/transformers";

env.localModelPath = "/"; // the folder lies here, not on the Hub
const tokenizer = await AutoTokenizer.from_pretrained(resolve({name}));
const model = await AutoModelForSequenceClassification.from_pretrained(resolve({name}), {{ dtype: "{dtype}" }});
const inputs = tokenizer("It is raining."{second});
console.log((await model(inputs)).logits.tolist(), model.config.id2label);
"""
    types = "\nrun.tokenizer.return_token_type_ids = true;" if "token_type_ids" in record["inputs"] else ""
    blank = json.dumps(f"He opened the {record.get('mask_token')} and went in.", ensure_ascii=False)
    texts = {"fill-mask": blank, "question-answering": '"Who sat?", "The cat sat."'}
    return f"""import {{ resolve }} from "node:path";
import {{ pipeline, env }} from "@huggingface/transformers";

env.localModelPath = "/"; // the folder lies here, not on the Hub
const run = await pipeline("{record["pipeline"]}", resolve({name}), {{ dtype: "{dtype}" }});{types}
console.log(await run({texts.get(record["pipeline"], '"The cat sat on the mat."')}));
"""
