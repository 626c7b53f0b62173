"""What the paper prints: Table 1 (protocol §7), in percent."""

from __future__ import annotations

ROW_NAMES = {
    "softmax_regression": "Softmax regression (full CNN feature cube)",
    "avg_pool_lstm": "Avg pooled LSTM",
    "max_pool_lstm": "Max pooled LSTM",
    "soft_attention_0": "Soft attention model, λ = 0",
    "soft_attention_1": "Soft attention model, λ = 1",
    "soft_attention_10": "Soft attention model, λ = 10",
}
DATA_NAMES = {"ucf11": "UCF-11", "hmdb51": "HMDB-51", "hollywood2": "Hollywood2"}
TABLE1 = {
    "ucf11": (82.37, 82.56, 81.60, 84.96, 83.52, 81.44),
    "hmdb51": (33.46, 40.52, 37.58, 41.31, 40.98, 39.87),
    "hollywood2": (34.62, 43.19, 43.22, 43.91, 43.18, 42.92),
}


def table1(data: str, row: str) -> float | None:
    """The paper's number for a data set and a row, or None where it has none."""
    return TABLE1[data][list(ROW_NAMES).index(row)] if data in TABLE1 else None
