import pytest

from reproduce.common.cli import help_text, resolve
from reproduce.common.dataset import STORES, feature_folder, feature_spec, on_other_data
from reproduce.common.fields import entries
from reproduce.common.presets import MODELS, PRESETS
from reproduce.common.settings import Settings, SettingsError
from reproduce.prepare import PrepareSettings
from reproduce.table1 import TableSettings


def test_defaults_are_the_papers():
    settings = resolve(Settings, [])
    assert (settings.model.name, settings.model.attention, settings.model.num_layers) == ("soft_attention", "location", 3)
    assert (settings.optim.name, settings.optim.lr, settings.optim.beta1, settings.optim.beta2) == ("adam", 2e-4, 0.9, 0.999)
    assert (settings.data.batch_size, settings.trainer.max_epochs, settings.objective.weight_decay) == (128, 15, 1e-5)
    assert settings.protocol == "retrain"


@pytest.mark.parametrize("preset", MODELS)
def test_both_models_see_through_the_papers_network(preset):
    backbone = resolve(Settings, [f"preset={preset}"]).backbone
    assert (backbone.name, backbone.weights, backbone.layer, backbone.size) == ("bvlc_googlenet", "imagenet", None, None)


@pytest.mark.parametrize(("data", "hidden"), [("ucf11", 512), ("hmdb51", 1024), ("hollywood2", 512)])
@pytest.mark.parametrize("preset", ["paper", "released"])
def test_hidden_size_follows_the_data_set(preset, data, hidden):
    assert resolve(Settings, [f"preset={preset}", f"data.name={data}"]).model.hidden_dim == hidden


@pytest.mark.parametrize(
    ("data", "optimizer", "lr", "last_n", "extra"),
    [("ucf11", "released_adam", 2e-4, 30, 0), ("hmdb51", "sgd", 1e-5, 16, 2), ("hollywood2", "sgd", 1e-4, 16, 0)],
)
def test_released_preset_is_the_released_codes(data, optimizer, lr, last_n, extra):
    settings = resolve(Settings, ["preset=released", f"data.name={data}"])
    assert (settings.optim.name, settings.optim.lr) == (optimizer, lr)
    assert (settings.model.last_n, settings.model.attention_layers) == (last_n, extra)
    assert (settings.model.attention, settings.model.num_layers, settings.model.input_dropout) == ("content", 1, False)
    assert (settings.objective.batch_reduction, settings.protocol) == ("sum", "holdout")


@pytest.mark.parametrize("preset", ["paper", "released", "miniature", "[released,miniature]"])
def test_of_long_videos_blocks_are_drawn_whatever_the_preset_and_of_others_none(preset):
    long = resolve(Settings, [f"preset={preset}", "data.name=sports1m"])
    assert (long.data.blocks_per_video, long.data.stride, long.data.fps) == ([4, 20], 30, 30)
    for data in ("data.name=ucf11", "data.name=hmdb51", "data.name=ucf101"):
        assert resolve(Settings, [f"preset={preset}", data]).data.blocks_per_video is None


def test_drawn_blocks_have_a_store_of_their_own_and_views_do_not_depend_on_them():
    drawn, whole, other = (
        resolve(Settings, ["data.name=sports1m", *words])
        for words in ([], ["data.blocks_per_video=null"], ["data.blocks_per_video=[2,3]", "data.blocks_seed=7"])
    )
    assert feature_spec(drawn).blocks == "4 random blocks a train video, 20 a test video, seed 0"
    assert feature_spec(other).blocks == "2 random blocks a train video, 3 a test video, seed 7"
    assert "blocks" not in feature_spec(whole).made_from
    names = [feature_folder(settings).name for settings in (drawn, whole, other)]
    assert names == ["bvlc_googlenet-imagenet" + more for more in ("-blocks-4-20", "", "-blocks-2-3")]
    views = STORES["views"]
    assert views.spec(drawn) == views.spec(whole) and views.folder(drawn) == views.folder(whole)


@pytest.mark.counts("bad settings")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["data.name=sports1m", "data.stride=1"], "goes with data.fps=30 and data.stride=30, .*null takes all frames"),
        (["data.name=sports1m", "data.fps=6"], "goes with data.fps=30 and data.stride=30"),
        (["data.name=sports1m", "data.blocks_per_video=4"], "data.blocks_per_video"),
        (["data.name=sports1m", "data.blocks_per_video=[4]"], "two numbers from 1 to 1000"),
        (["data.name=sports1m", "data.blocks_per_video=[]"], "two numbers from 1 to 1000"),
        (["data.name=sports1m", "data.blocks_per_video=[0,20]"], "two numbers from 1 to 1000"),
        (["data.name=sports1m", "data.blocks_per_video=[4,1001]"], "two numbers from 1 to 1000"),
        (["data.name=ucf11", "data.blocks_per_video=[4,20]", "data.stride=30"], "goes with data.name=sports1m; write .*=null"),
    ],
)
def test_blocks_that_cannot_be_drawn_are_refused(words, says):
    with pytest.raises(SettingsError, match=says):
        resolve(Settings, words)


@pytest.mark.counts("bad settings")
@pytest.mark.parametrize("words", [["data.name=ucf11"], ["preset=miniature", "data.name=hmdb51"]])
def test_a_truth_is_refused_where_nothing_is_drawn_by_it(words):
    with pytest.raises(SettingsError, match="truth=ring: goes with preset=miniature data.name=ucf11 alone"):
        resolve(Settings, [*words, "data.truth=ring"])


def test_presets_compose_and_the_command_line_has_the_last_word():
    settings = resolve(Settings, ["preset=[released,miniature]", "data.name=hmdb51", "model.hidden_dim=7"])
    assert settings.model.attention == "content"
    assert settings.backbone.weights == "random"
    assert settings.model.hidden_dim == 7


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("model.num_layer=3", "did you mean model.num_layers"),
        ("num_layers=3", "did you mean model.num_layers"),
        ("model.num_layers=0", "must be from 1"),
        ("data.split=None", "data.split=null"),
        ("--seed=3", "seed=3"),
        ("seed", "key=value"),
        ("seed=null", "must have a value"),
        ("seed=one", "number"),
        ("preset=[released,paper]", "two models; choose one"),
        ("preset=5", "preset=5"),
        ("preset=[[paper]]", "preset="),
        ("data.folder=/videos", "a folder below paths.data"),
        ("data.folder=~/videos", "a folder below paths.data"),
        ("data.folder=a/../../b", "a folder below paths.data"),
        ("data.ram_budget=nan", "data.ram_budget=nan: must be"),
        ("data.ram_budget=.inf", "data.ram_budget=inf: must be"),
        ("data.gpu_budget=-1", "data.gpu_budget=-1.0: must be"),
        ("optim.beta1=2", "must be from 0"),
        ("optim.eps=-1", "must be from"),
        ("backbone.workers=-1", "must be from 0"),
        ("backbone.batch_size=0", "must be at least 1"),
        ("backbone.seed=99999999999999999999", "backbone.seed"),
        ("trainer.threads=0", "must be at least 1"),
        ("logging.group=${x}", "refers to another one"),
        ("paths.data=???", "is missing"),
        ("paths.results=~nobody-of-that-name/results", "paths.results=~nobody.*home folder"),
        ("optim.lr=fast", "number"),
        ("trainer.devices=2.5", "trainer.devices"),
        ("data.fps=60", "must be"),
        ("data.skip_bad=maybe", "data.skip_bad"),
        ("preset=minature", "did you mean miniature"),
        ("row=soft_attention", "did you mean soft_attention"),
        ("data.name=ucf12", "did you mean ucf11"),
        ("data.name=videofolder", "data.folder"),
        ("model.name=[a", "there is no such setting|choose|cannot be read|model.name"),
        ("logging.tags=[a", "cannot be read"),
        ("trainer.threads=0", "at least 1"),
        ("pretrain.data=[ucf11]", "pretrain.data=ucf11: is data.name, whose test videos"),
        ("pretrain.data=[ucf101]", "pretrain.data=ucf101: UCF-101 and UCF-11 have videos in common, so that .* drop it"),
        ("pretrain.data=[videofolder]", "pretrain.data=videofolder: .*choose from"),
        ("pretrain.data=[hmdb51,hollywood2,hmdb51]", "pretrain.data=hmdb51: stands there twice"),
        ("temporal.second=ucf101", "temporal.second=ucf101: UCF-101 and UCF-11 have videos in common"),
    ],
)
def test_what_is_wrong_is_refused_with_what_to_write(word, says):
    with pytest.raises(SettingsError, match=says):
        resolve(Settings, [word])


@pytest.mark.parametrize("word", ["workers=0", "workers=-5"])
def test_no_table_is_made_by_nobody(word):
    with pytest.raises(SettingsError, match=f"{word}: must be at least 1"):
        resolve(TableSettings, [word])


def test_a_default_named_none_may_be_written():
    assert resolve(PrepareSettings, ["delete=none"]).delete == "none"


def test_a_row_and_a_contradiction_of_it_are_refused():
    with pytest.raises(SettingsError, match="drop objective.attention_penalty"):
        resolve(Settings, ["row=soft_attention_1", "objective.attention_penalty=10"])


def test_numbers_are_read_as_sweeps_write_them():
    settings = resolve(Settings, ["optim.lr=1e-3", "model.hidden_dim=32.0", "data.split=2", "logging.tags=one"])
    assert settings.optim.lr == 1e-3
    assert settings.model.hidden_dim == 32 and isinstance(settings.model.hidden_dim, int)
    assert settings.data.split == "2"
    assert settings.logging.tags == ["one"]


@pytest.mark.parametrize("cls", [Settings, TableSettings])
def test_help_lists_every_key_with_a_meaning(cls):
    text = help_text("What it does.", cls)
    for entry in entries(cls):
        assert f"  {entry.key}=" in text
        assert entry.meaning, f"{entry.key} has no meaning"


def test_presets_set_only_keys_that_exist():
    known = {entry.key for entry in entries(Settings)}
    for name, preset in PRESETS.items():
        above = [layer for on in preset.above.values() for layer in on.values()]
        for layer in (preset.sets, *preset.on.values(), *above):
            assert set(layer) <= known, name


@pytest.mark.parametrize(
    ("weights", "folder"),
    [("imagenet", "googlenet-imagenet"), ("random", "googlenet-random"), ("/x/mine.pth", "googlenet-mine")],
)
def test_a_feature_store_is_named_after_backbone_and_weights(weights, folder):
    settings = resolve(Settings, ["backbone.name=googlenet", f"backbone.weights={weights}", "paths.features=/f"])
    assert str(feature_folder(settings)) == f"/f/ucf11/{folder}"


def test_settings_on_other_data_keep_what_makes_blocks_and_stores_and_drop_what_chooses_videos():
    chosen = ["data.name=ucf11", "data.split=logo-1", "data.groups=1-3", "data.fold=all/2", "data.stride=2", "backbone.size=63"]
    settings = resolve(Settings, chosen)
    other, long = (on_other_data(settings, name) for name in ("hmdb51", "sports1m"))
    assert (other.data.name, other.data.split, other.data.groups, other.data.fold) == ("hmdb51", None, None, None)
    assert (other.data.stride, other.backbone.size, other.data.blocks_per_video) == (2, 63, None)
    assert (long.data.stride, long.data.blocks_per_video) == (30, [4, 20])
    assert feature_spec(other) == feature_spec(settings) and feature_folder(other).parent.name == "hmdb51"
