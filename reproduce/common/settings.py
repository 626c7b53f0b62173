"""Settings: every key of a run with its meaning, range and choices, as nested dataclasses. Free of torch.

A string below a field is its meaning and appears in ``--help``; `fields` says what else a field may declare.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import yaml

from datamodules.videos import DAMAGED, TRUTHS
from reproduce.common import catalogue
from reproduce.common.fields import INFINITY, entries, one_of, ranged


class SettingsError(ValueError):
    """A setting is unknown or impossible; the message says which, and what to write instead."""


@dataclass
class DataSettings:
    """Which videos, and how blocks are cut from them."""

    name: str = one_of("ucf11", catalogue.DATASETS)
    """data set"""
    folder: Optional[str] = None  # noqa: UP045 - OmegaConf reads the annotation on Python 3.10
    """folder below paths.data; null for the data set's name. A videofolder needs it"""
    split: Optional[str] = None  # noqa: UP045
    """ucf11: paper_like, logo-1 … logo-25, logo (of tables: each of these, pooled), random; hmdb51 and ucf101: 1, 2, 3; \
videofolder: default, seed-<n>; null for the first"""
    groups: Optional[str] = None  # noqa: UP045
    """part of ucf11 or ucf101 by its groups, such as 1-3,7; null for all. Tables say so"""
    classes: list[str] = field(default_factory=list)
    """part of a data set by its classes; none for all. Tables say so"""
    fold: Optional[str] = None  # noqa: UP045
    """i/n: train's first stage alone, validated on fold i of n folds of train by whole groups; all/n: each fold in its turn"""
    permuted: Optional[int] = ranged(None, 0, 2**31)  # noqa: UP045
    """a negative control: deal the labels of train's groups to other groups, with this seed; null for labels as they are"""
    truth: str = one_of(TRUTHS[0], TRUTHS)
    """of the generated ucf11, what tells whose action counts: a halo around the actor, or that the others ring it"""
    fps: float = ranged(30.0, 1e-3, 30)
    """nominal sampling rate; frames are taken int(30 / fps) apart"""
    stride: int = ranged(1, 1, 10_000)
    """frames between two blocks of a video; the paper's is 1, and sports1m's drawn blocks are read at 30"""
    blocks_per_video: Optional[list[int]] = None  # noqa: UP045
    """blocks drawn at random from each video of train and of test, which alone get features; null for all frames. Of sports1m \
alone, with [4, 20]"""
    blocks_seed: int = ranged(0, 0, 2**31)
    """of that draw"""
    batch_size: int = ranged(128, 1, 1_000_000)
    """blocks of a batch, over all devices"""
    resident: str = one_of("auto", ("auto", "gpu", "ram", "mmap", "rotate"))
    """where features lie while training: gpu, ram, mmap (read from the files at each batch), rotate (whole videos come into \
memory in turns, each once an epoch), or auto (gpu or else ram if they fit the budget, else rotate)"""
    gpu_budget: float = ranged(60.0, 0, 1e9)
    """GiB of each GPU's memory that features may fill, if they are free besides the reserve"""
    gpu_reserve: float = ranged(8.0, 0, 1e9)
    """GiB of each GPU's free memory that features leave to the network and its batches"""
    ram_budget: Optional[float] = ranged(None, 0, 1e9)  # noqa: UP045
    """GiB of main memory that each process may fill with features; null for its part of half of what is free"""
    skip_bad: bool = False
    """leave out videos that are missing or do not decode, and say so in every table, instead of refusing"""
    damaged: str = one_of("refuse", DAMAGED)
    """videos with gaps, an early end or frames that do not decode: refuse, as bad ones; or keep what decodes, and say so"""

    @property
    def keeps_damaged(self) -> bool:
        """Whether what decodes of damaged videos is kept."""
        return self.damaged == "keep"


@dataclass
class BackboneSettings:
    """The frozen image network whose last convolutional map is attended to."""

    name: str = catalogue.PAPER_NETWORK
    """the paper's own, any torchvision classification network, or timm:<model>; googlenet is torchvision's batch-norm port"""
    weights: str = "imagenet"
    """imagenet (the download of that name: BVLC's, torchvision's, timm's), random (calibrated), released (imported), a file"""
    layer: Optional[str] = None  # noqa: UP045
    """graph node to cut the network at; null for its last convolutional map, and with timm"""
    size: Optional[int] = ranged(None, 16, 4096)  # noqa: UP045
    """side in pixels of the square that frames are squashed to; null for 224, or what a network of timm was trained with"""
    resize: Optional[str] = one_of(None, ("authors", "direct"))  # noqa: UP045
    """authors (to 256x256, minus the mean, then to size) or direct; null for authors with bvlc_googlenet, direct with others"""
    mean: Optional[str] = None  # noqa: UP045
    """of bvlc_googlenet: a mean image, or channels (means); null for ilsvrc_2012_mean.npy beside the weights, else channels"""
    seed: int = ranged(0, 0, 2**31)
    """of random weights"""
    precision: str = one_of("auto", ("auto", "fp32", "fp16", "bf16"))
    """of extraction: fp32, fp16, bf16, or auto (what the hardware has, if a trial's features keep cosine 0.999, else fp32)"""
    compile: str = one_of("auto", ("auto", "true", "false"))
    """torch.compile the network: true, false, or auto (where the frames are so many that it repays)"""
    batch_size: Optional[int] = ranged(None, 1, 100_000)  # noqa: UP045
    """frames a batch, for each device; null for 256 on a GPU, 8 on the CPU"""
    workers: Optional[int] = ranged(None, 0, 1024)  # noqa: UP045
    """decoding processes for each device; null for the cores that the network leaves free, up to 8"""


@dataclass
class ModelSettings:
    """The network (paper §3)."""

    name: str = one_of("soft_attention", catalogue.SYSTEMS)
    """what is fitted and scored: a network, or another system"""
    attention: str = one_of("location", ("location", "content"))
    """location (paper, Eq. 4) or content (released code)"""
    attention_layers: int = ranged(0, 0, 100)
    """extra layers of content attention; the released code has 2 for hmdb51"""
    num_layers: int = ranged(3, 1, 100)
    """LSTM layers, 1 to 5 in the paper"""
    hidden_dim: int = ranged(512, 1, 1_000_000)
    """H, width of LSTM and head; the presets take 1024 for hmdb51"""
    dropout: float = ranged(0.5, 0, 0.999)
    """probability of a zero at every dropout site"""
    input_dropout: bool = True
    """dropout at the LSTM layers' inputs too (paper), or only in the head (released code)"""
    top_k: int = ranged(4, 1, 100_000)
    """k of top-k attention: locations of a frame that a step reads; all of them make it soft attention"""
    last_n: int = ranged(30, 1, 30)
    """steps whose probabilities are averaged into a block's prediction"""
    fast: bool = True
    """soft attention by its fast form; false takes Eqs. 1-6 as written, with equal results; of no effect on other networks"""


@dataclass
class ObjectiveSettings:
    """The loss (Eq. 7)."""

    attention_penalty: float = ranged(0.0, 0, INFINITY)
    """λ of the doubly stochastic penalty; the paper has 0, 1 and 10"""
    penalty_reduction: str = one_of("mean", ("mean", "sum"))
    """of the penalty over locations: mean (released code) or sum (as Eq. 7 prints)"""
    batch_reduction: str = one_of("mean", ("mean", "sum"))
    """of the cost over blocks: mean (paper) or sum (released code)"""
    weight_decay: float = ranged(1e-5, 0, INFINITY)
    """γ, times the sum of all squared parameters"""


@dataclass
class OptimSettings:
    """The optimiser."""

    name: str = one_of("adam", ("adam", "released_adam", "sgd"))
    """adam, released_adam (with the released code's bias correction) or sgd"""
    lr: float = ranged(2e-4, 0, INFINITY)
    """learning rate, constant"""
    beta1: float = ranged(0.9, 0, 0.999999)
    """decay of the first moment"""
    beta2: float = ranged(0.999, 0, 0.9999999)
    """decay of the second moment"""
    eps: float = ranged(1e-8, 1e-30, 1)
    """ε of Adam"""


@dataclass
class MultiresolutionSettings:
    """Maps of several layers of the backbone (row=multiresolution_attention)."""

    layers: list[str] = field(default_factory=list)
    """nodes beside backbone.layer; none for those known of it: inception 4e and 3b of both GoogLeNets"""
    side: int = ranged(14, 1, 4096)
    """most rows and columns of these maps; finer ones are averaged to the next multiple of the first map's below"""
    width: int = ranged(512, 1, 1_000_000)
    """numbers that each map's expected feature is brought to"""
    combine: str = one_of("gate", ("gate", "concatenate"))
    """how these make the LSTM's input: their sum, weighted by a gate that h_{t-1} sets, or side by side"""
    nested: bool = False
    """coarse to fine: a finer map's attention is that of the first map's cells, times a softmax within each; else its own"""


@dataclass
class PretrainSettings:
    """Pre-training without labels, on the train videos of the split (row=composite_lstm)."""

    max_epochs: int = ranged(60, 1, 1_000_000)
    """epochs; the one that explains most of the videos that the first stage holds out is kept"""
    lr: float = ranged(1e-4, 0, INFINITY)
    """learning rate of Adam, constant"""
    reconstruction: float = ranged(1.0, 0, INFINITY)
    """weight of giving back the 16 frames that were read"""
    prediction: float = ranged(1.0, 0, INFINITY)
    """weight of predicting the 13 frames that follow"""
    data: list[str] = field(default_factory=list)
    """further data sets, such as ucf101, all videos of which it learns from; none for the split's train videos alone"""


@dataclass
class HardSettings:
    """Hard attention, trained by REINFORCE from a finished soft run (rows hard_attention, hard_content_attention)."""

    start: str = one_of(catalogue.DEFAULT_ATTENTION, catalogue.SOFT_ROWS)
    """row whose finished run, with the same settings and seed, it starts from"""
    epochs: int = ranged(5, 1, 1_000_000)
    """of each of the protocol's stages, at most; trainer.max_epochs are the soft run's"""
    lr: float = ranged(2e-4, 0, INFINITY)
    """learning rate of the first epoch; optim.lr is the soft run's"""
    last_lr: float = ranged(5e-5, 0, INFINITY)
    """that of the last epoch; between them it changes evenly"""
    sampling: float = ranged(1.0, 0, 1)
    """p of semi-sampling: share of the updates whose locations are drawn; the others are soft attention's"""
    baseline: str = one_of("state", ("state", "average", "none"))
    """of the cost to go: state (affine in h_{t-1}), average (of each step, moving) or none"""
    score_weight: float = ranged(1.0, 0, INFINITY)
    """of REINFORCE's score term; with 1 the gradient is unbiased"""
    entropy: float = ranged(1e-2, 0, INFINITY)
    """λ_H of the first epoch, times the entropy of every l_t"""
    last_entropy: float = ranged(1e-3, 0, INFINITY)
    """that of the last epoch"""
    samples: int = ranged(10, 0, 1000)
    """tests with drawn locations, whose mean is noted beside the row's figure"""
    region: int = ranged(1, 1, 10_000)
    """side in cells of the squares of which a step draws one, and looks softly within it; 1 draws a single location"""


@dataclass
class FusionSettings:
    """Late fusion of finished runs (model.name=fusion)."""

    rows: list[str] = field(default_factory=lambda: [catalogue.BASELINE, catalogue.DEFAULT_ATTENTION])
    """rows whose finished runs, with the same settings and seed, are fused; two or more"""
    method: str = one_of("mean", ("mean", "svm"))
    """mean (of the members' scores) or svm (linear, on their scores of the videos held out of train)"""


@dataclass
class TrajectorySettings:
    """Improved dense trajectories (systems of Table 2 that are built on them)."""

    length: int = ranged(15, 2, 1000)
    """L, steps of a trajectory"""
    scales: int = ranged(8, 1, 8)
    """levels of the image pyramid, √2 apart, at most"""
    keypoints: str = one_of("sift", ("sift", "orb"))
    """matched between frames for the camera's motion, in place of SURF: sift, or the faster orb"""
    height: Optional[int] = ranged(None, 32, 4320)  # noqa: UP045
    """frames that are higher are brought to this height first; null for frames as they are"""
    skips: int = ranged(3, 1, 29)
    """L of multi-skip feature stacking: levels 1 to L leave out as many frames between two"""
    workers: Optional[int] = ranged(None, 1, 1024)  # noqa: UP045
    """processes that track, each one video at a time; null for one a core"""


@dataclass
class EncoderSettings:
    """Encoders of local descriptors: PCA, Gaussian mixtures, k-means."""

    components: int = ranged(256, 1, 100_000)
    """K, Gaussians of a mixture"""
    samples: int = ranged(256_000, 100, 100_000_000)
    """descriptors of train that PCA and mixtures are fitted to, as many of every video"""
    column_dimensions: int = ranged(64, 1, 100_000)
    """numbers that PCA leaves of a feature cube's column; of a trajectory's descriptor, half are left"""
    subvolume_dimensions: int = ranged(200, 1, 100_000)
    """of stacked Fisher vectors: numbers that are left of a trajectory's descriptor and of a sub-volume's vector"""
    subvolume_reduction: str = one_of("max_margin", ("max_margin", "pca"))
    """of stacked Fisher vectors: what reduces a sub-volume's vector"""


@dataclass
class SlowFeatureSettings:
    """Slow features of gray frames and their bag of words (row=dl_sfa)."""

    height: int = ranged(120, 16, 4320)
    """pixels; frames are squashed to 4:3"""
    cube: list[int] = field(default_factory=lambda: [10, 16, 16])
    """frames, rows and columns that the first layer sees"""
    block: list[int] = field(default_factory=lambda: [14, 20, 20])
    """the same of a descriptor, which sees a cube in each of its corners"""
    dimensions: list[int] = field(default_factory=lambda: [300, 200])
    """outputs of the first and of the second layer"""
    response: str = one_of("abs", ("abs", "square", "relu"))
    """non-linearity after each layer"""
    words: int = ranged(3000, 2, 1_000_000)
    """centres of k-means"""


@dataclass
class FlowSettings:
    """Dense optical flow (row=temporal_stream)."""

    method: str = one_of("dis", ("dis", "farneback", "tvl1"))
    """dis (medium preset), farneback, or tvl1, which needs OpenCV's contributed modules"""
    size: int = ranged(128, 16, 4320)
    """short side in pixels of the stored fields, which are 4:3"""


@dataclass
class SpatialSettings:
    """The spatial stream ConvNet (row=spatial_stream); its network is backbone.*."""

    layers: str = one_of("last", ("last", "all"))
    """what is trained: the last layer on stored features of ten crops of 25 frames a video, or all of the network"""
    dropout: float = ranged(0.5, 0, 0.999)
    """probability of a zero at the last layer's input"""
    batch_size: int = ranged(256, 1, 1_000_000)
    """draws of a batch, over all devices; each of a class, a video of it, a frame, a crop"""
    iterations: int = ranged(20_000, 1, 1_000_000_000)
    """batches of training, in trainer.max_epochs parts after each of which it is validated"""
    lr: float = ranged(1e-2, 0, INFINITY)
    """learning rate; a tenth of it after 70 % of the iterations"""
    weight_decay: float = ranged(5e-4, 0, INFINITY)
    """γ of γ/2 ‖W‖², biases apart"""


@dataclass
class TemporalSettings:
    """The temporal stream ConvNet (row=temporal_stream); its network is backbone.*, its input flow.*."""

    init: str = one_of("imagenet", ("imagenet", "scratch"))
    """imagenet: backbone.weights, the first convolution's averaged over RGB; scratch: random weights"""
    length: int = ranged(10, 1, 1000)
    """L, consecutive flow fields that are stacked"""
    stacking: str = one_of("fields", ("fields", "trajectories"))
    """what a pixel's channels are: each field's displacement there (fields), or where the one before led (trajectories)"""
    dropout: float = ranged(0.8, 0, 0.999)
    """probability of a zero at the last layer's input"""
    batch_size: int = ranged(64, 1, 1_000_000)
    """draws of a batch, over all devices; each of a class, a video of it, L fields, a crop"""
    iterations: int = ranged(10_000, 1, 1_000_000_000)
    """batches of training, in trainer.max_epochs parts after each of which it is validated"""
    stacks: int = ranged(25, 1, 1000)
    """of a video, equally spaced, that are scored, by ten crops each"""
    second: Optional[str] = None  # noqa: UP045
    """a data set, such as ucf101, all videos of which a last layer of its own learns, on half of each batch; null for none"""
    lr: float = ranged(1e-3, 0, INFINITY)
    """learning rate; a tenth of it after 60 % of the iterations, and again after 80 %"""
    weight_decay: float = ranged(5e-4, 0, INFINITY)
    """γ of γ/2 ‖W‖², biases apart"""


@dataclass
class TrainerSettings:
    """Lightning's Trainer."""

    accelerator: str = one_of("auto", ("auto", "cpu", "gpu"))
    """auto (CUDA's GPUs where there are some, else the CPU), cpu or gpu"""
    devices: int = ranged(1, 1, 100_000)
    """GPUs, or processes on the CPU, of one run on this machine"""
    num_nodes: int = ranged(1, 1, 100_000)
    """machines of one run"""
    max_epochs: int = ranged(15, 1, 1_000_000)
    """epochs of each of the protocol's stages, at most"""
    precision: str = one_of("32-true", ("32-true", "bf16-mixed", "16-mixed"))
    """Lightning's precision of training and testing: 32-true, bf16-mixed, 16-mixed"""
    threads: Optional[int] = ranged(None, 1, 100_000)  # noqa: UP045
    """CPU threads of each process; null for the cores of its SLURM task, or the machine's divided by devices"""
    tf32: bool = False
    """single precision on GPUs by TF32, in matrix products, convolutions and LSTMs alike; false for IEEE's, as on the CPU"""
    cuda_graph: str = one_of("auto", ("auto", "off"))
    """auto: on one GPU, replay the training step as a CUDA graph if its gradients are an eager step's bit for bit; off"""


@dataclass
class LoggingSettings:
    """Weights & Biases."""

    wandb: str = one_of("auto", ("auto", "online", "offline", "disabled"))
    """auto (online where a login exists, else offline), online, offline or disabled"""
    project: str = "visual-attention"
    """W&B project"""
    entity: Optional[str] = None  # noqa: UP045
    """W&B user or team; null for the login's own"""
    group: Optional[str] = None  # noqa: UP045
    """W&B group; null for the data set and row"""
    tags: list[str] = field(default_factory=list)
    """W&B tags, besides the data set, the model and the presets"""


@dataclass
class PathsSettings:
    """Where things lie; relative paths start at the working directory."""

    data: str = "data"
    """holds ucf11/, hmdb51/ and the like, or <data.folder>/"""
    features: str = "features"
    """feature stores, <data set>/<backbone>-<weights>/"""
    runs: str = "runs"
    """run folders, <data set>/<row or model>-<hash of the configuration>/"""
    results: str = "results"
    """tables"""


@dataclass
class Settings:
    """One run: fit by the protocol's two stages, test, write."""

    preset: list[str] = field(default_factory=lambda: ["paper"])
    """paper, released, miniature, or several, later ones on top: preset=[released,miniature]"""
    row: Optional[str] = one_of(None, catalogue.ROWS)  # noqa: UP045
    """a row of the tables, short for model.name and what tells it apart, such as λ"""
    column: Optional[str] = None  # noqa: UP045
    """data set and split in one word, short for data.name and data.split: ucf11, hmdb51_1 to _3, hollywood2, ucf101_1 to _3"""
    protocol: str = one_of("retrain", ("retrain", "holdout"))
    """retrain (hold 15 % of train out, note the cost at the best score, train on all of train down to it) or holdout"""
    seed: int = ranged(1, 0, 2**31)
    """of weights, dropout and the order of blocks"""
    data: DataSettings = field(default_factory=DataSettings)
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    multiresolution: MultiresolutionSettings = field(default_factory=MultiresolutionSettings)
    pretrain: PretrainSettings = field(default_factory=PretrainSettings)
    hard: HardSettings = field(default_factory=HardSettings)
    fusion: FusionSettings = field(default_factory=FusionSettings)
    trajectories: TrajectorySettings = field(default_factory=TrajectorySettings)
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    slow_features: SlowFeatureSettings = field(default_factory=SlowFeatureSettings)
    flow: FlowSettings = field(default_factory=FlowSettings)
    spatial: SpatialSettings = field(default_factory=SpatialSettings)
    temporal: TemporalSettings = field(default_factory=TemporalSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    paths: PathsSettings = field(default_factory=PathsSettings)


def get(settings: Any, key: str) -> Any:
    """The value of a dotted key."""
    for name in key.split("."):
        settings = getattr(settings, name)
    return settings


def with_values(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """A copy of a run's settings with other values, by dotted key."""
    changed = copy.deepcopy(settings)
    for key, value in values.items():
        *groups, name = key.split(".")
        setattr(get(changed, ".".join(groups)) if groups else changed, name, value)
    return changed


def keys_of(group: str) -> tuple[str, ...]:
    """The dotted keys of a group of a run's settings, such as ``model``; a key that is no group is itself."""
    return tuple(entry.key for entry in entries(Settings) if entry.key == group or entry.key.startswith(f"{group}."))


def to_yaml(settings: Settings) -> str:
    """The settings as YAML."""
    return yaml.safe_dump(dataclasses.asdict(settings), sort_keys=False, allow_unicode=True)
