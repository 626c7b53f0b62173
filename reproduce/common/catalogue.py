"""What the presets, the rows and the columns of the tables set."""

from __future__ import annotations

from typing import Any

ROWS: dict[str, dict[str, Any]] = {
    "softmax_regression": {"model.name": "softmax_regression"},
    "avg_pool_lstm": {"model.name": "avg_pool_lstm"},
    "max_pool_lstm": {"model.name": "max_pool_lstm"},
    "soft_attention_0": {"model.name": "soft_attention", "objective.attention_penalty": 0.0},
    "soft_attention_1": {"model.name": "soft_attention", "objective.attention_penalty": 1.0},
    "soft_attention_10": {"model.name": "soft_attention", "objective.attention_penalty": 10.0},
}
"""The rows of Table 1: what a row sets."""

COLUMNS: dict[str, dict[str, Any]] = {
    "ucf11": {"data.name": "ucf11"},
    "hmdb51_1": {"data.name": "hmdb51", "data.split": "1"},
    "hmdb51_2": {"data.name": "hmdb51", "data.split": "2"},
    "hmdb51_3": {"data.name": "hmdb51", "data.split": "3"},
    "hollywood2": {"data.name": "hollywood2"},
}
"""Data set and split in one word, for sweeps whose grid is not the product of the two."""

# What a preset sets: for every data set ("*"), then for one of them.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {"*": {}, "hmdb51": {"model.hidden_dim": 1024}},
    "released": {
        "*": {
            "model.attention": "content",
            "model.num_layers": 1,
            "model.input_dropout": False,
            "model.last_n": 16,
            "objective.batch_reduction": "sum",
            "optim.name": "released_adam",
            "protocol": "holdout",
        },
        "ucf11": {"model.last_n": 30},
        "hmdb51": {"model.hidden_dim": 1024, "model.attention_layers": 2, "optim.name": "sgd", "optim.lr": 1e-5},
        "hollywood2": {"optim.name": "sgd", "optim.lr": 1e-4},
    },
    "miniature": {
        "*": {
            "paths.data": "data/miniature",
            "paths.features": "features/miniature",
            "backbone.name": "mobilenet_v3_small",
            "backbone.weights": "random",
            "backbone.layer": "features.9",
            "data.batch_size": 64,
            "model.hidden_dim": 64,
            "optim.lr": 5e-3,
            "trainer.max_epochs": 10,
        },
        "hmdb51": {"optim.lr": 1e-2, "trainer.max_epochs": 15},
        "hollywood2": {"data.batch_size": 16, "optim.lr": 1e-2, "trainer.max_epochs": 12},
    },
}
# The released optimisers' steps, scaled to the miniature networks.
RELEASED_MINIATURE = {"ucf11": {"optim.lr": 2e-4}, "hmdb51": {"optim.lr": 3e-3}, "hollywood2": {"optim.lr": 2e-3}}
