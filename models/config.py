# SPDX-License-Identifier: MIT
"""The settings of a run: frozen dataclasses, read from TOML, written into the run folder.

An unknown key is an error that names the nearest known one; so is a value of the wrong type.
Nothing is executed.
"""

import difflib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class ConfigError(ValueError):
    """A setting that is not known or not usable; the message is one line for people."""


T = TypeVar("T")


def setting(
    default: T, *choices: T, above: float | None = None, at_least: float | None = None
) -> T:
    """A field of a section: its default, and which other values are allowed."""
    limits = {"choices": choices, "above": above, "at_least": at_least}
    value: T = field(default=default, metadata=limits)
    return value


def check(name: str, value: Any, limits: Mapping[str, Any]) -> None:
    """Raise ConfigError if the value of "section.key" is not one that its field allows."""
    wanted = ""
    if limits.get("choices") and value not in limits["choices"]:
        wanted = " or ".join(map(repr, limits["choices"]))
    elif (above := limits.get("above")) is not None and not value > above:
        wanted = f"a number above {above}"
    elif (least := limits.get("at_least")) is not None and not value >= least:
        wanted = f"{least} or more"
    if wanted:
        raise ConfigError(f"{name}: expected {wanted}, got {value!r}")


@dataclass(frozen=True)
class Network:
    name: str = "efficient"  # a key of models.networks.NETWORKS
    preset: str = "tiny-64"
    points: int = setting(2048, above=0)
    out_act: str = setting("tanh", "tanh", "none")
    start_from_mean: bool = False  # the mean shape of the training set becomes the last bias
    pretrained: str = ""  # reconstnet: a file of ImageNet weights, with torchvision's names
    autoencoder: str = ""  # lmnet: the run of a trained lmnet-autoencoder


@dataclass(frozen=True)
class Data:
    root: str = ""  # empty: the set that comes with the repository
    train_split: str = "train"
    val_split: str = "val"  # chooses the best epoch; never the split that is reported
    # 0 to 4: another split of the same objects by families, 70 : 10 : 20, each with test objects of
    # its own. -1: the split of the set's files.
    fold: int = setting(-1, at_least=-1)
    image_size: int = setting(64, above=0)  # pixels, square; images of another size are resized
    # Processes that load images, for each GPU, if the split is too large to be kept in memory.
    workers: int = setting(0, at_least=0)
    # Every step draws its points from pointcloud_<dense>.npy; 0: always pointcloud_<points>.npy.
    # Not together with loss.emd_cache, whose prices belong to points.
    dense: int = setting(0, at_least=0)


@dataclass(frozen=True)
class Augment:
    # Flip the image and mirror the object in half of the samples: in "x" if the objects face along
    # z (models.data's own), in "z" if they face along x (ShapeNet, by 3D-LMNet's azimuths), or
    # "none". If the set declares its front axis, mirroring along that axis is rejected.
    mirror: str = setting("x", "x", "z", "none")
    brightness: float = setting(0.2, at_least=0)  # of the object: a factor in [1 - b, 1 + b]
    contrast: float = setting(0.2, at_least=0)
    scale: float = setting(0.1, at_least=0)  # of the image: a factor in [1 - s, 1 + s]
    shift: float = setting(0.1, at_least=0)  # of the image, either way: a part of half its side
    colours: bool = True  # swap the three colours
    background: float = setting(0.5, at_least=0)  # part of the images that stand on a random grey


@dataclass(frozen=True)
class Loss:
    w_cd: float = 1.0
    w_emd: float = 1.0
    w_kl: float = 0.0  # equation 3 of the paper
    w_view: float = 0.0  # equation 2, the view-angle loss of 3D-LMNet and 3D-ReconstNet
    w_latent: float = 0.0  # lmnet: distance between the latents of image and cloud
    chamfer_squared: bool = False  # the exponent of equation 4 is not legible in the paper
    cd_to_truth: float = 1.0  # factor of prediction -> truth; PSGN, 3D-LMNet's autoencoder: 0.5
    emd_rtol: float = setting(0.05, above=0)  # certified relative gap of the matching in training
    # Start each matching from the prices of the sample's last one: float32 [samples, points] on the
    # device and in the checkpoint, 7 GB for all 24 views of ShapeNet's training split.
    emd_cache: bool = True
    # "many-to-one": an auction that is stopped after 50 rounds, as in the extensions that people
    # copy; to compare with. It knows neither emd_rtol nor emd_cache.
    emd_matching: str = setting("one-to-one", "one-to-one", "many-to-one")
    latent_norm: int = setting(1, 1, 2)  # 1: mean absolute difference, 2: mean squared difference
    view_eta: float = 0.2  # sigma that the view from view_centre should have
    view_delta: float = setting(20.0, above=0)  # degrees over which that falls off
    view_centre: float = 180.0  # azimuth of the view that hides most; 270 in models.data's own


@dataclass(frozen=True)
class Lifting:
    """The keypoints of models.data.rigs and the loss of the lifter."""

    w_shape: float = setting(1.0, above=0)  # mean squared error of the visible joints
    procrustes: bool = True  # the loss is taken after the best similarity
    held_out: str = "bench sofa vessel hexapod"  # categories that are never trained on
    anchors: int = setting(16, above=3)  # joints of a category's rig in training
    other_anchors: int = setting(20, above=3)  # of its other rig, which is only tested
    # Further rigs of a category in training: 8 to 24 anchors but not `other_anchors`, drawn.
    rigs: int = setting(12, at_least=0)
    occlusion: float = setting(0.3, at_least=0)  # the largest share of joints that is not visible
    poses: int = setting(8192, above=0)  # of each skeleton, 1/64 of that of each drawn tree
    trees: int = setting(512, at_least=0)  # drawn skeletons in training
    views: int = setting(4, above=0)  # of each test shape, if evaluate.views is 0
    # Steps of training the baseline of fixed order; 0: as many as the lifter has had.
    mlp_steps: int = setting(0, at_least=0)


@dataclass(frozen=True)
class Pointmap:
    """Of the network "pointmap", in place of [loss]."""

    least: float = setting(15.0, at_least=0)  # degrees between the two cameras of a pair
    most: float = setting(90.0, at_least=0)
    alpha: float = setting(0.2, at_least=0)  # of the confidence's regulariser
    roll: float = setting(15.0, at_least=0)  # of each camera in training, degrees, either way
    # Part of the training pairs of which one view is blank, so that the network can be asked what
    # it says of a single view.
    blank: float = setting(0.1, at_least=0)
    aligned: int = setting(8, at_least=0)  # objects whose views are all aligned in evaluation


@dataclass(frozen=True)
class Voxel:
    """Of network.name = "voxel"; which preset gives what: models.networks.voxel.Volumes."""

    # What the true volumes are carved by: "depth" maps, or the "silhouette" of a set without them.
    source: str = setting("depth", "depth", "silhouette")
    # What missing a voxel costs in the cross-entropy; inventing one costs 1.
    missed: float = setting(1.0, above=0)
    # Share of the image's features, and of the channels of each decoder level, that a training step
    # leaves out, of each sample its own.
    dropout: float = setting(0.0, at_least=0)
    w_occupancy: float = 1.0  # cross-entropy of the image's volume
    w_again: float = 0.0  # tl: cross-entropy of the volume that is encoded and decoded
    w_code: float = 0.0  # tl: the image's code to the volume's; disentangled: to the other view's
    w_kl: float = 0.0  # vae, hierarchical: 3e-5 = 1 / 32^3 is the evidence bound
    w_azimuth: float = 0.0  # disentangled: the pose code tells the camera's azimuth
    w_swapped: float = 0.0  # disentangled: cross-entropy of a shape in another image's pose


@dataclass(frozen=True)
class Gan2Shape:
    """Of the network "gan2shape", in place of [loss]."""

    # Mean difference to the image, at three resolutions, with the better sign of the yaw.
    w_image: float = 1.0
    w_side: float = setting(1.0, at_least=0)  # the yaw, in radians, where its opposite is better
    # The difference with the maps mirrored: objects are taken for symmetric, as in Unsup3D.
    w_flipped: float = setting(0.5, at_least=0)
    w_view: float = setting(0.3, at_least=0)  # the views of a batch to the cameras' distribution
    w_light: float = setting(0.1, at_least=0)  # the lights of a batch to the lamps' distribution
    # Second derivatives of the depth that is seen, times the radius of the first ball.
    w_smooth: float = setting(0.02, at_least=0)
    # True depth and normals, which make a supervised network of the depth network: then it is the
    # depth of the image's own view, and no other term counts.
    w_depth: float = setting(0.0, at_least=0)
    prior: str = setting("ellipsoid", "ellipsoid", "flat")  # the first shape: a ball or a plate
    fov: float = setting(15.0, above=0)  # degrees across the images
    # The cameras of the set, which every method may know: degrees from the front, either way, and
    # above the horizon; uniform.
    azimuth: float = setting(70.0, at_least=0)
    lowest: float = -5.0
    highest: float = 20.0
    light: float = setting(60.0, above=0)  # degrees from the camera, of lamps; uniform
    beside: str = ""  # evaluation: folders of other runs, scored on the same views


@dataclass(frozen=True)
class Gan:
    """Of models.gan2shape.train_gan."""

    width: int = setting(256, above=0)  # of the latent, and channels at 4 and 8 pixels
    start: str = ""  # a run, from whose two networks in 16 bits a new one goes on
    steps: int = setting(20000, above=0)  # at most; see optim.max_minutes
    every: int = setting(1000, above=0)  # steps between two checkpoints
    lr: float = setting(2e-3, above=0)
    # Weight of the penalty on the discriminator's slope: 2e-4 pixels / batch is the usual size.
    r1: float = setting(0.03, at_least=0)
    average: float = setting(20000.0, above=0)  # images in which the mean generator forgets half


@dataclass(frozen=True)
class Fit:
    """Of models.gan2shape.fit, the method's three steps."""

    gan: str = ""  # the run of models.gan2shape.train_gan
    # A run of models.train, whose closed surfaces are gone on with; "": depth maps, from `prior`.
    start: str = ""
    views: int = setting(0, at_least=0)  # of each object of evaluate.split; 0: all
    objects: int = setting(0, at_least=0)  # so many objects, spread over the split; 0: all
    alone: bool = False  # networks of its own for each view, in place of joint ones
    rounds: int = setting(4, above=0)  # of steps 2 and 3
    invert_steps: int = setting(600, above=0)  # the images' own latents
    albedo_steps: int = setting(400, at_least=0)  # step 1
    offset_steps: int = setting(500, above=0)  # step 2
    shape_steps: int = setting(500, above=0)  # step 3
    samples: int = setting(16, above=0)  # projected samples of each image and round
    batch_size: int = setting(48, above=0)
    lr: float = setting(3e-4, above=0)
    # What step 3 learns from: samples that the encoder projects; that descent from there projects;
    # "direction": the image's latent, moved along the one direction that turns the GAN's images by
    # the view network of `start`; "none": the pseudo samples, without a GAN; "views": true other
    # views of the object, a bound.
    project: str = setting("encoder", "encoder", "descent", "direction", "none", "views")
    descent_steps: int = setting(100, above=0)
    # Offsets go through the last layers of the mapping network ("mapped"), or are free.
    offsets: str = setting("mapped", "mapped", "free")
    mapped_layers: int = setting(3, at_least=0)  # of the mapping network that offsets go through
    w_offset: float = setting(0.01, at_least=0)  # mean squared offset, in deviations of latents
    w_features: float = setting(0.5, at_least=0)  # the discriminator's features
    # As gan2shape.w_smooth, which suits closed surfaces; the rims of ellipsoids need less.
    w_smooth: float = setting(4e-3, at_least=0)
    # The turns that the view network sees in samples to those that were asked for: without it a
    # depth that is turned inside out, seen with the opposite turn, is nearly as good.
    w_pose: float = setting(0.3, at_least=0)
    prior: str = setting("ellipsoid", "ellipsoid", "flat")  # the first depth maps
    yaw: float = setting(35.0, at_least=0)  # degrees, of the pseudo samples' turns, at most
    pitch: float = setting(8.0, at_least=0)


@dataclass(frozen=True)
class Optim:
    lr: float = setting(1e-3, above=0)
    # "cosine": down to a hundredth; "step": times step_factor every step_epochs.
    schedule: str = setting("cosine", "cosine", "step")
    step_epochs: int = setting(20, above=0)
    step_factor: float = 0.5
    batch_size: int = setting(16, above=0)  # of all processes together
    epochs: int = setting(10, above=0)
    # Steps of an epoch, after which validation and checkpoint come; 0: one pass over the images.
    epoch_steps: int = setting(0, at_least=0)
    warmup: int = setting(0, at_least=0)  # steps in which the rate rises to lr
    # AdamW's, of matrices and filters; not of biases and norms.
    weight_decay: float = setting(0.0, at_least=0)
    # Of the average of the weights, which is validated and scored: (1 + t) / (10 + t) in step t, at
    # most this. 0: the weights of the last step.
    average: float = setting(0.999, at_least=0)
    # Of training, then it stops where it is; 0: no limit.
    max_minutes: float = setting(0.0, at_least=0)
    # Largest norm of the gradient; 0: no clipping.
    grad_clip: float = setting(1.0, at_least=0)
    # "bf16" is autocast of the network, never of the losses.
    precision: str = setting("float32", "float32", "bf16")
    # A resumed run goes on bit for bit also on a GPU, where steps are slower so. A CPU always does.
    deterministic: bool = False
    graph: bool = True  # on one GPU: the step is captured as a CUDA graph and replayed
    seed: int = 0


@dataclass(frozen=True)
class Evaluate:
    split: str = "test"
    protocol: str = "lmnet"
    # "fixed": the same points of every cloud; "random": each cloud its own.
    sampling: str = setting("fixed", "fixed", "random")
    checkpoint: str = setting("best", "best", "last")  # the best epoch on data.val_split
    # So many views (pointmap: pairs) of each object, spread evenly over its own; 0: all.
    views: int = setting(0, at_least=0)
    batch_size: int = setting(16, above=0)
    baselines: bool = True  # mean shape, clusters, retrieval, oracle beside the network
    draw: bool = False  # draw the latent instead of taking its mean
    seed: int = 0


@dataclass(frozen=True)
class Log:
    every: int = setting(
        20, above=0
    )  # steps between two looks at the losses, which wait for the GPU
    tensorboard: bool = False


@dataclass(frozen=True)
class Config:
    network: Network = field(default_factory=Network)
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    loss: Loss = field(default_factory=Loss)
    lifting: Lifting = field(default_factory=Lifting)
    pointmap: Pointmap = field(default_factory=Pointmap)
    voxel: Voxel = field(default_factory=Voxel)
    gan2shape: Gan2Shape = field(default_factory=Gan2Shape)
    gan: Gan = field(default_factory=Gan)
    fit: Fit = field(default_factory=Fit)
    optim: Optim = field(default_factory=Optim)
    evaluate: Evaluate = field(default_factory=Evaluate)
    log: Log = field(default_factory=Log)

    def __post_init__(self) -> None:
        for section in fields(self):
            values = getattr(self, section.name)
            for key in fields(values):
                check(f"{section.name}.{key.name}", getattr(values, key.name), key.metadata)


def _unknown(what: str, key: str, known: list[str]) -> ConfigError:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return ConfigError(f"unknown {what} {key!r}; {hint}")


def update(config: Config, values: dict[str, Any]) -> Config:
    """Put values {section: {key: value}} over config; every name and type is checked."""
    sections = [f.name for f in fields(config)]
    for section, table in values.items():
        if section not in sections:
            raise _unknown("section", section, sections)
        if not isinstance(table, dict):
            raise ConfigError(f"{section}: expected a section with keys, got {table!r}")
        old = getattr(config, section)
        known = [f.name for f in fields(old)]
        new = {}
        for key, value in table.items():
            if key not in known:
                raise _unknown(f"key in [{section}]", key, known)
            kind = type(getattr(old, key))
            if kind is float and type(value) is int:
                value = float(value)
            if type(value) is not kind:
                raise ConfigError(f"{section}.{key}: expected {kind.__name__}, got {value!r}")
            new[key] = value
        config = replace(config, **{section: replace(old, **new)})
    return config


def load(path: str | Path, base: Config | None = None) -> Config:
    """Read a TOML file over `base` (default: the defaults above)."""
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        return update(base or Config(), values)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def override(config: Config, assignments: list[str]) -> Config:
    """Apply settings "section.key=value"; what is not a TOML value is taken as a string."""
    for text in assignments:
        name, equals, raw = text.partition("=")
        section, dot, key = name.strip().partition(".")
        if not (equals and dot and key):
            raise ConfigError(f"--set: expected section.key=value, got {text!r}")
        try:
            value = tomllib.loads(f"value = {raw}")["value"]
        except tomllib.TOMLDecodeError:
            value = raw.strip()
        config = update(config, {section: {key: value}})
    return config


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """Plain data: what a checkpoint holds, so that it loads without running code."""
    return asdict(config)


def dumps(config: Config) -> str:
    """The config as TOML. For str, bool, int and float JSON's notation is TOML's."""
    blocks = []
    for section, table in to_dict(config).items():
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items()]
        blocks.append("\n".join([f"[{section}]", *lines]) + "\n")
    return "\n".join(blocks)
