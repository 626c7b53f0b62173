"""Run folders keep their names: what was finished under these settings at commit aa43783 is still found."""

import json
from pathlib import Path

import pytest

from datamodules.videos import Annotation
from reproduce.common.cli import resolve
from reproduce.common.dataset import data_folder, feature_folder
from reproduce.common.settings import Settings
from reproduce.experiments.identity import configuration, identity, named, run_folder

RECORDED = json.loads(Path(__file__).with_name("identities.json").read_text())
DEFAULT_THEN = "backbone.name=googlenet"  # except of miniature runs


class Recorded(Annotation):
    """A data set of which nothing but its fingerprint is known."""

    def fingerprint(self) -> str:
        return "0123abcd"


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: " ".join(recorded["words"]))
def test_the_identity_is_the_recorded_one(recorded):
    words = recorded["words"]
    settings = resolve(Settings, words if any("miniature" in word for word in words) else [DEFAULT_THEN, *words])
    nowhere = Path("nowhere")
    data = Recorded(settings.data.folder or settings.data.name, "", nowhere, nowhere, ("run", "walk"), False, (), (), (), False)
    found = json.loads(json.dumps(identity(settings, data)))
    assert found == recorded["identity"]
    assert run_folder(settings, data).name == recorded["folder"]
    assert named(found)["data.split"] == recorded["identity"]["data"][1]


def test_whether_damaged_videos_are_kept_makes_another_run_and_refusing_them_the_known_one():
    plain, said, kept = (
        configuration(resolve(Settings, words)) for words in ([], ["data.damaged=refuse"], ["data.damaged=keep"])
    )
    assert plain == said and kept == {**plain, "data.damaged": "keep"} and named(kept)["data.damaged"] == "keep"


def test_a_replayed_step_makes_no_other_run():
    """It is used only where it gives an eager step's gradients."""
    auto, off = (configuration(resolve(Settings, [f"trainer.cuda_graph={asked}"])) for asked in ("auto", "off"))
    assert auto == off


def test_data_drawn_otherwise_make_another_run_in_another_folder_and_the_usual_ones_the_known_one():
    plain, said, ring = (
        resolve(Settings, ["preset=miniature", *words]) for words in ([], ["data.truth=halo"], ["data.truth=ring"])
    )
    assert configuration(plain) == configuration(said)
    assert configuration(ring) == {**configuration(plain), "data.truth": "ring"}
    assert named(configuration(ring))["data.truth"] == "ring"
    assert (data_folder(plain), data_folder(ring)) == (Path("data/miniature/ucf11"), Path("data/miniature/ucf11-ring"))
    assert feature_folder(ring) == Path("features/miniature/ucf11-ring") / feature_folder(plain).name


def test_tf32_makes_another_run_of_a_network_and_ieee_the_known_one():
    plain, said, tf32 = (
        configuration(resolve(Settings, words)) for words in ([], ["trainer.tf32=false"], ["trainer.tf32=true"])
    )
    assert plain == said and tf32 == {**plain, "trainer.tf32": True} and named(tf32)["trainer.tf32"] is True
    probes = [configuration(resolve(Settings, ["model.name=linear_probe", f"trainer.tf32={on}"])) for on in ("false", "true")]
    assert probes[0] == probes[1], "a linear probe multiplies nothing on a GPU"
