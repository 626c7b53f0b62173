"""From settings to networks: which form of the soft attention network runs, and that its choice makes no other run."""

from dataclasses import asdict, replace

import pytest
import torch
import yaml

from reproduce.common.cli import resolve
from reproduce.common.settings import Settings, to_yaml
from reproduce.experiments.identity import configuration
from reproduce.systems.loading import read_settings
from reproduce.systems.recurrent import build_network

ROWS = ["softmax_regression", "avg_pool_lstm", "max_pool_lstm", "soft_attention_1"]
SMALL = ["data.name=ucf11", "model.hidden_dim=8", "model.num_layers=2"]


@pytest.mark.parametrize("row", ROWS)
def test_fast_chooses_a_form_of_soft_attention_and_leaves_other_networks_alone(row):
    networks = []
    for fast in ("true", "false"):
        torch.manual_seed(0)
        networks.append(build_network(resolve(Settings, [*SMALL, f"row={row}", f"model.fast={fast}"]), (4, 5), 3))
    if row == "soft_attention_1":
        assert [network.fast for network in networks] == [True, False]
    X, outputs = torch.rand(2, 30, 4, 5), []
    for network in networks:
        torch.manual_seed(1)
        outputs.append(network.train()(X).logits)
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("preset", ["paper", "released"])
def test_fast_is_no_part_of_a_runs_identity(row, preset):
    settings = [
        resolve(Settings, [*SMALL, f"preset={preset}", f"row={row}", f"model.fast={fast}"]) for fast in ("true", "false")
    ]
    found = [configuration(one) for one in settings]
    assert found[0] == found[1] and "fast" not in found[0]["model"]
    if row == "soft_attention_1":
        assert found[0]["model"].keys() == asdict(settings[0].model).keys() - {"fast", "top_k"}


def test_a_configuration_from_before_the_setting_is_read_as_fast(tmp_path):
    settings = Settings()
    values = yaml.safe_load(to_yaml(replace(settings, model=replace(settings.model, fast=False))))
    del values["model"]["fast"]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    assert read_settings(path).model.fast
