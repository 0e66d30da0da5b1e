"""What other tools call our words, by the kind of word: the first thing a message about an unknown word looks into."""

from __future__ import annotations

from collections.abc import Mapping

# fmt: off
SYNONYMS: Mapping[str, Mapping[str, str]] = {
    "metric": {
        "kl_div": "kl", "kl_divergence": "kl", "kld": "kl", "divergence": "kl",
        "logit_difference": "logit_diff", "ld": "logit_diff", "logits_diff": "logit_diff",
        "probability_diff": "prob_diff", "prob_difference": "prob_diff", "acc": "accuracy",
        "exact_match": "accuracy",
    },
    "quantity": {
        "kl_div": "kl", "kl_divergence": "kl", "acc": "accuracy", "ce": "cross_entropy",
        "loss": "cross_entropy", "nll": "cross_entropy", "size": "edges", "edge_count": "edges",
        "node_count": "nodes", "iou": "stability", "jaccard": "stability", "faith": "faithfulness",
        "separation": "score", "silhouette": "score", "ari": "stability", "blocks": "count", "k": "count",
        "modules": "count", "communities": "count", "clusters": "count", "params": "parameters",
        "difference": "max_difference", "max_diff": "max_difference", "n_cut": "ncut", "pvalue": "p", "fdr": "q",
        "p_value": "p", "z_score": "z", "zscore": "z", "drift": "moved", "effect": "ratio", "n": "samples",
    },
    "method": {
        "eapig": "eap_ig", "eap_ig_inputs": "eap_ig", "ig": "eap_ig", "attribution_patching": "eap",
        "edge_attribution_patching": "eap", "atp": "eap", "ep": "edge_pruning", "pruning": "edge_pruning",
        "hard_concrete": "edge_pruning", "hardconcrete": "edge_pruning", "l0": "edge_pruning",
    },
    "distance": {
        "gw": "gromov_wasserstein", "gromov": "gromov_wasserstein", "fgw": "fused_gromov_wasserstein",
        "ot": "wasserstein", "emd": "wasserstein", "linear_cka": "cka", "kernel_cka": "cka", "hsic": "cka",
        "rdm": "rsa", "l2": "euclidean", "cos": "cosine", "jaccard": "knn", "neighbors": "knn",
    },
    "clustering": {
        "spectral": "ncut", "n_cut": "ncut", "normalized_cut": "ncut", "ward": "hierarchy",
        "hierarchical": "hierarchy", "watanabe": "hierarchy", "dendrogram": "hierarchy", "louvain": "communities",
        "modularity": "communities", "community": "communities",
    },
    "ablation": {
        "resample": "interchange", "resampling": "interchange", "counterfactual": "interchange",
        "corrupt": "interchange", "corrupted": "interchange", "patch": "interchange",
        "patching": "interchange", "zeros": "zero", "zero_ablation": "zero", "average": "mean",
        "mean_ablation": "mean", "none": "zero",
    },
    "model kind": {
        "huggingface": "hf", "transformers": "hf", "pretrained": "hf", "hub": "hf", "llama_cpp": "gguf",
        "ggml": "gguf", "py": "python", "toy": "builtin", "npz": "tracr", "rasp": "tracr",
    },
    "data kind": {
        "json": "jsonl", "jsonlines": "jsonl", "file": "jsonl", "csv": "jsonl", "generator": "builtin",
    },
    "field": {
        "iterations": "steps", "epochs": "steps", "num_steps": "steps", "n_steps": "steps", "iters": "steps",
        "ig_steps": "steps", "lr": "learning_rate", "edge_lr": "learning_rate",
        "reg_lr": "lambda_learning_rate", "lambda_lr": "lambda_learning_rate", "batch": "batch_size",
        "seed": "seeds", "seeds": "seed", "warmup_steps": "warmup", "init": "initial",
        "target_sparsity": "target", "edge_sparsity": "target", "precision": "dtype", "torch_dtype": "dtype",
        "size": "n", "count": "n", "num_examples": "n", "samples": "n", "attn": "attention",
        "heads": "attention", "neurons": "mlp", "tol": "tolerance", "atol": "tolerance", "prompt": "example",
        "input": "example", "gqa": "key_value", "kv": "key_value", "branch": "revision",
    },
    "choice": {
        "fp32": "float32", "f32": "float32", "float": "float32", "bf16": "bfloat16", "gpu": "cuda",
        "heads": "head", "layers": "layer", "neurons": "neuron", "split": "head split qkv",
        "joint": "head joint qkv", "qkv": "head split qkv", "true": "grouped", "mlp": "layer",
        "logarithmic": "log",
    },
    "query kind": {
        "head": "heads", "node": "nodes", "edge": "edges", "path": "paths", "routes": "paths", "mlp": "mlps",
        "neuron": "neurons", "attention": "layers", "dominator": "dominators",
    },
    "attribute": {
        "source": "src", "target": "dst", "destination": "dst", "from": "src", "to": "dst", "depth": "layer",
        "type": "kind", "weights": "weight", "parameters": "weight", "attribution": "score",
        "src_layer": "src.layer", "dst_layer": "dst.layer", "reader": "dst", "writer": "src",
    },
    "flavor": {
        "eap": "mib", "eap_ig": "mib", "nodelink": "node_link", "networkx": "node_link", "edge_list": "edges",
        "table": "edges",
    },
    "scale": {
        "densities": "density", "sparsities": "sparsity", "count": "edges",
    },
    "split": {
        "templates": "template", "examples": "example", "random": "example", "sentence": "template",
    },
    "target": {
        "answers": "answer", "label": "answer", "clean": "answer", "correct": "answer",
    },
    "opponent": {
        "wrong": "distractor", "incorrect": "distractor", "foil": "distractor",
        "counterfactual": "distractor",
    },
    "position": {
        "end": "last", "final": "last",
    },
}
# fmt: on
