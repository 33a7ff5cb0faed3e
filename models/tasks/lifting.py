# SPDX-License-Identifier: MIT
"""Keypoints of one view -> their 3-D shape (3D-LFM)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models import checkpoint, distributed
from models import config as configs
from models.average import Average
from models.build import open_split
from models.config import Config, ConfigError
from models.cost import describe_machine
from models.data.rigs import (
    JOINTS,
    POINTS,
    SKELETONS,
    TURNS,
    Pool,
    Rig,
    Views,
    assigned_rigs,
    look,
    random_tree,
    skeleton_rig,
)
from models.determinism import deterministic
from models.networks.lifter import Lifter
from models.step import Step, Trained, learning_rate, make_optimiser
from models.tables import RIG_KNOWN, Row
from models.tasks import lifting_baselines as baselines
from models.tasks import lifting_pictures, results
from models.tasks.base import Batches, Task
from pointloss import mpjpe, pa_mpjpe

FEWEST = 5  # training objects of a category that has a rig
FEWEST_ANCHORS = 8  # of the further rigs of a category
# The groups of test items. SEEN: new shapes of rigs of the training. OTHER: the same objects by
# rigs with another number of joints. DRAWN: skeletons drawn anew. UNSEEN: categories held out.
SEEN, OTHER, DRAWN, UNSEEN = "seen rigs", "other rigs", "drawn skeletons", "unseen categories"
Lift = Callable[[Views, Tensor], tuple[Tensor, Tensor]]
TEST_POSES, TEST_TREES = 32, 16
CHUNK = 64  # views that are evaluated at once


class Rigs(NamedTuple):
    """Who sees which shapes."""

    train: list[list[Rig]]  # groups, see Pool
    val: list[Rig]
    test: dict[str, list[Rig]]  # by group of the results
    seen: list[Rig]  # training shapes for the baselines, of the rigs of test[SEEN]
    other: list[Rig]  # likewise of test[OTHER]


def open_rigs(config: Config) -> Rigs:
    """All rigs: on the clouds of the set, made-up bodies, drawn trees."""
    options = config.lifting
    held_out = options.held_out.split()
    rigs = Rigs([[], [], [], []], [], {SEEN: [], OTHER: [], DRAWN: [], UNSEEN: []}, [], [])
    further = torch.Generator().manual_seed(10)
    splits = (config.data.train_split, config.data.val_split, config.evaluate.split)
    sets = [open_split(config, split, images=False) for split in splits]
    for index, category in enumerate(sets[0].categories):
        own = [[i for i, c in enumerate(d.object_categories) if c == index] for d in sets]
        counts = list(map(len, own))
        known = sum(counts) if category in held_out else counts[0]
        if known < FEWEST:
            continue
        objects = [d.objects[i] for d, rows in zip(sets, own, strict=True) for i in rows]
        clouds = torch.cat([d.points[rows] for d, rows in zip(sets, own, strict=True)])
        sizes = [n for n in range(FEWEST_ANCHORS, JOINTS + 1) if n != options.other_anchors]
        drawn = torch.randint(len(sizes), (options.rigs,), generator=further).tolist()
        starts = torch.randint(
            clouds[0, :POINTS].shape[0], (options.rigs,), generator=further
        ).tolist()
        first, second, *others = assigned_rigs(
            category,
            objects,
            clouds,
            known,
            [options.anchors, options.other_anchors, *(sizes[k] for k in drawn)],
            [None, None, *starts],
        )
        train, val, test = torch.arange(len(objects)).split(counts)
        if category in held_out:
            rigs.test[UNSEEN].append(first)
            continue
        rigs.train[0].append(first.of(train.tolist()))
        rigs.train[3] += [other.of(train.tolist()) for other in others]
        rigs.seen.append(rigs.train[0][-1])
        rigs.other.append(second.of(train.tolist()))
        rigs.val.append(first.of(val.tolist()))
        rigs.test[SEEN].append(first.of(test.tolist()))
        rigs.test[OTHER].append(second.of(test.tolist()))
    if not rigs.seen:
        raise ConfigError(f"data.root: no category has {FEWEST} training objects for a rig")
    for name, bones in SKELETONS.items():
        test_rig = skeleton_rig(name, bones, TEST_POSES, seed=3)
        rigs.test[UNSEEN if name in held_out else SEEN].append(test_rig)
        if name not in held_out:
            rigs.train[1].append(skeleton_rig(name, bones, options.poses, seed=1))
            rigs.seen.append(rigs.train[1][-1])
            rigs.val.append(skeleton_rig(name, bones, TEST_POSES, seed=2))
    for seed, count, poses, into in (
        (4, options.trees, -(-options.poses // 64), rigs.train[2]),
        (5, TEST_TREES if options.trees else 0, TEST_POSES // 4, rigs.val),
        (6, TEST_TREES, TEST_POSES // 4, rigs.test[DRAWN]),
    ):
        generator = torch.Generator().manual_seed(seed)
        into += [
            skeleton_rig(f"tree {i}", random_tree(generator), poses, 1000 * seed + i)
            for i in range(count)
        ]
    return rigs


def views_of(rigs: Sequence[Rig], count: int, occlusion: float, seed: int) -> tuple[Views, Tensor]:
    """`count` views of every shape, on the CPU, and the number of the rig of each, [B]."""
    rig = torch.cat([torch.full((len(r.shapes),), i) for i, r in enumerate(rigs)])
    rig = rig.repeat_interleave(count)
    shapes = torch.cat([r.shapes for r in rigs]).repeat_interleave(count, dim=0)
    joints, edges = (torch.stack([getattr(r, k) for r in rigs])[rig] for k in ("joints", "edges"))
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(len(shapes), 4 + JOINTS, generator=generator)
    return look(shapes, joints, edges, numbers, occlusion), rig


def errors(shape: Tensor, placed: Tensor, views: Views) -> Tensor:
    """PA-MPJPE of `shape` and MPJPE of `placed`, [B, 2]: percent of the size of the truth."""
    both = [
        pa_mpjpe(shape, views.truth, mask=views.mask),
        mpjpe(placed, views.truth, mask=views.mask),
    ]
    return 100 * torch.stack(both, 1) / views.size[:, None]


class Drawn:
    """Training batches that `Lifting.draw` makes from random numbers alone."""

    def __init__(self, steps: int, device: str):
        self.steps, self.device = steps, device

    def __len__(self) -> int:
        return self.steps

    def begin(self, epoch: int) -> None:
        """Nothing: the random numbers of the epoch are torch's own."""

    def __iter__(self) -> Any:
        for _ in range(self.steps):
            yield torch.empty(0, dtype=torch.int64), ()

    def name(self, sample: int) -> str:
        """Never asked for: samples have no numbers."""
        raise NotImplementedError


class Lifting(Task):
    """networks/lifter.py, by the masked squared error after a Procrustes fit."""

    section, unit = "lifting", "views"
    chooses = ("val_pa_mpjpe",)
    follows = frozenset({"split", "checkpoint", "views", "baselines"})

    @cached_property
    def rigs(self) -> Rigs:
        return open_rigs(self.config)

    @cached_property
    def pool(self) -> Pool:
        return Pool(self.rigs.train, self.device, self.config.lifting.occlusion)

    @property
    def views(self) -> int:
        """Of each test shape."""
        return self.config.evaluate.views or self.config.lifting.views

    @cached_property
    def validation(self) -> Views:
        """One view of each validation shape."""
        views, _ = views_of(self.rigs.val, 1, self.config.lifting.occlusion, seed=7)
        return _to(views, self.device)

    def check(self) -> str:
        options = self.config.lifting
        for key in ("anchors", "other_anchors"):
            if getattr(options, key) > JOINTS:
                raise ConfigError(f"lifting.{key}: expected {JOINTS} or less")
        if options.occlusion > 0.5:
            raise ConfigError(f"lifting.occlusion: expected 0.5 or less, got {options.occlusion}")
        if not self.config.optim.epoch_steps:
            raise ConfigError("optim.epoch_steps: views are drawn without end; set it above 0")
        open_split(self.config, self.config.evaluate.split, images=False)
        count = sum(p.numel() for p in self.build().parameters())
        return f"{count / 1e6:.2f} M parameters"

    def build(self) -> Lifter:
        return Lifter(self.config.network.preset)

    def batches(self) -> Batches:
        assert self.rigs.train  # opened now
        return Drawn(self.config.optim.epoch_steps, self.device)

    def objective(self, network: nn.Module) -> nn.Module:
        return nn.Module()

    def draw(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> Views:
        # Drawn for the whole batch, so that any number of processes sees the same numbers.
        numbers = torch.rand(self.config.optim.batch_size, TURNS, device=self.device)
        return self.pool.draw(distributed.own_rows(numbers))

    def forward(self, model: nn.Module, batch: Views) -> tuple[Tensor]:
        out: tuple[Tensor] = model(batch.keypoints, batch.mask, batch.edges)
        return out

    def loss(self, objective: nn.Module, out: tuple[Tensor], batch: Views) -> dict[str, Tensor]:
        options = self.config.lifting
        shape = baselines.masked_error(out[0], batch, options.procrustes).mean()
        return {"loss": options.w_shape * shape, "shape": shape}

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """PA-MPJPE of the validation views, in percent of the shape's size."""
        views = self.validation
        parts = []
        for part in _parts(views, 512):
            (shape,) = network(part.keypoints, part.mask, part.edges)
            parts.append(errors(shape, shape, part)[:, 0])
        return {"val_pa_mpjpe": torch.cat(parts).mean().item()}

    @deterministic()
    @torch.no_grad()
    def evaluate(
        self, state: dict[str, Any] | None, out: Path, commit: str | None = None, **options: Any
    ) -> str:
        """PA-MPJPE and MPJPE of the test views of every group, beside the baselines."""
        assert state is not None  # `options` names nothing that could be scored in its place
        network = self.build().to(self.device).eval()
        checkpoint.restore(network, state, "network")
        own = self.config.lifting
        lifters = self._baselines(state) if self.config.evaluate.baselines else {}
        items: list[Row] = []
        values: dict[str, list[Tensor]] = {"lifter": [], baselines.FLAT: []}
        values |= {name: [] for name in lifters}
        shown: list[lifting_pictures.Picture] = []
        for group, rigs in self.rigs.test.items():
            if not rigs:
                continue
            views, rig = views_of(rigs, self.views, own.occlusion, seed=8)
            items += _items(group, rigs)
            views = _to(views, self.device)
            found: dict[str, list[Tensor]] = {name: [] for name in values}
            shapes = []
            for part, number in zip(_parts(views, CHUNK), rig.split(CHUNK), strict=True):
                (shape,) = network(part.keypoints, part.mask, part.edges)
                shapes.append(shape)
                placed = baselines.place(shape, part) if own.procrustes else shape
                found["lifter"].append(errors(shape, placed, part))
                flat = part.truth * part.truth.new_tensor([1.0, 1, 0])
                found[baselines.FLAT].append(errors(flat, flat, part))
                for name, lift in lifters.items():
                    nothing = torch.full((len(number), 2), float("nan"), device=self.device)
                    if name.endswith(RIG_KNOWN) == (group == OTHER) and group in (SEEN, OTHER):
                        nothing = errors(*lift(part, number.to(self.device)), part)
                    found[name].append(nothing)
            for name, parts in found.items():
                each = torch.cat(parts).cpu().split(_item_sizes(group, rigs, self.views))
                values[name].append(torch.stack([item.mean(0) for item in each]))
            scores = torch.cat(found["lifter"])[:, 0].tolist()
            shown += lifting_pictures.choose(group, rigs, rig, views, torch.cat(shapes), scores)
        table = results.Results(
            self._header(state, commit),
            ["PA-MPJPE", "MPJPE"],
            items,
            {name: torch.cat(parts) for name, parts in values.items()},
            configs.to_dict(self.config),
        )
        text = results.write(table, out)
        lifting_pictures.draw(out / "reconstructions.png", shown)
        return text

    def _baselines(self, state: dict[str, Any]) -> "dict[str, Lift]":
        """By name: views and the numbers of their rigs -> the shape, and the shape as placed."""
        device, weight, own = self.device, self._prior(), self.config
        groups = [group for group in self.rigs.train if group]
        # A rig of the smallest group is drawn so often in one of the lifter's steps.
        each = math.ceil(own.optim.batch_size / len(groups) / min(map(len, groups)))
        both = [*self.rigs.seen, *self.rigs.other]
        mlp = train_fixed_order(FixedOrderTask(own, device, both, each), self._mlp_steps(state))

        def fixed_order(views: Views, rig: Tensor, first: int) -> Tensor:
            return mlp.of(views, first + rig)

        found: dict[str, Lift] = {}
        for rigs, suffix, first in (
            (self.rigs.seen, "", 0),
            (self.rigs.other, RIG_KNOWN, len(self.rigs.seen)),
        ):
            bases = baselines.Bases(rigs, device)
            pca, nearest = partial(bases.fit, weight=weight), baselines.nearest_view(rigs, device)
            found |= {
                baselines.MEAN + suffix: _placing(bases.average),
                baselines.PCA + suffix: _placing(pca, placed=True),
                baselines.MLP + suffix: _placing(partial(fixed_order, first=first)),
                baselines.RETRIEVAL + suffix: _placing(nearest, placed=True),
            }
        return found

    def _mlp_steps(self, state: dict[str, Any]) -> int:
        """As many as the lifter has had, if the config does not say."""
        options = self.config
        return options.lifting.mlp_steps or len(state["history"]) * options.optim.epoch_steps

    def _prior(self) -> float:
        """The weight of the PCA's prior that is best on the validation shapes."""
        bases = baselines.Bases(self.rigs.seen, self.device)
        rigs = self.rigs.val[: len(self.rigs.seen)]  # the same rigs in the same order
        views, rig = views_of(rigs, 1, self.config.lifting.occlusion, seed=9)
        views, rig = _to(views, self.device), rig.to(self.device)

        def error(weight: float) -> float:
            shape = bases.fit(views, rig, weight)
            return errors(shape, shape, views)[:, 0].mean().item()

        return min(baselines.WEIGHTS, key=error)

    def _header(self, state: dict[str, Any], commit: str | None) -> list[str]:
        own = self.config.lifting
        return [
            f"Split {self.config.evaluate.split!r}, {self.views} orthographic views of each shape, "
            f"up to {own.occlusion:.0%} of the joints not visible. Errors in percent of the "
            "shape's size, the root mean square distance of its visible joints from their mean.",
            "PA-MPJPE: after the similarity that fits best. MPJPE: in the frame of the view; a "
            "shape in a frame of its own is placed there by the keypoints alone.",
            *checkpoint.describe(state, self.config),
            f"Preset {self.config.network.preset}, Procrustes in the loss: {own.procrustes}.",
            f"{SEEN}: new objects and poses of the training's categories. {OTHER}: the same "
            f"objects with {own.other_anchors} joints in place of {own.anchors}. {DRAWN}: trees "
            f"drawn anew. {UNSEEN}: {own.held_out}.",
            f"flat: all depths 0. mean shape, PCA ({baselines.BASES} components, shape and pose in "
            f"turn), MLP of fixed order, nearest of {baselines.BANK} training views: each for one "
            "rig, whose training shapes and joints it knows; "
            f"'{RIG_KNOWN.strip(', ')}' where the lifter has never seen the rig. The MLPs have "
            f"{self._mlp_steps(state)} steps; in each at least the lifter's views of their rig.",
            describe_machine(self.device, commit),
        ]


class FixedOrderTask(Lifting):
    """The MLPs of a fixed order, one for each of `fixed`, by the lifter's recipe and data.

    A step takes `each` views of each rig. The loss is the one with Procrustes.
    """

    def __init__(self, config: Config, device: str, fixed: Sequence[Rig], each: int):
        optim = replace(config.optim, precision="float32")  # bf16 gains nothing at this size
        lifting = replace(config.lifting, procrustes=True)
        super().__init__(replace(config, optim=optim, lifting=lifting), device)
        self.rig = torch.arange(len(fixed), device=device).repeat_interleave(each)
        self.fixed = Pool([fixed], device, config.lifting.occlusion)

    def build(self) -> baselines.FixedOrder:  # type: ignore[override]
        width = 512 if self.device.startswith("cuda") else 128
        return baselines.FixedOrder(len(self.fixed.counts), width)

    def draw(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> Views:
        return self.fixed.draw(torch.rand(len(self.rig), TURNS, device=self.device), self.rig)

    def forward(self, model: nn.Module, batch: Views) -> tuple[Tensor]:
        return (model(batch),)


def train_fixed_order(task: FixedOrderTask, steps: int) -> baselines.FixedOrder:
    """The averaged weights after so many steps, over which the rate comes down."""
    config = replace(task.config, optim=replace(task.config.optim, epochs=1))
    devices = [task.device] if task.device.startswith("cuda") else []
    with torch.enable_grad(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        network = task.build().to(task.device)
        average = Average(network, config.optim.average).to(task.device)
        optimiser = make_optimiser(network, config, task.device)
        step = Step(Trained(network, optimiser, nn.Module(), average), network, task)
        for number in range(steps):
            step((), learning_rate(config, number / steps, steps, seconds=0.0))
            step.clock.restart()  # which is not read
    fixed: baselines.FixedOrder = average.network  # type: ignore[assignment]
    return fixed


def _placing(
    lift: Callable[[Views, Tensor], Tensor], placed: bool = False
) -> Callable[[Views, Tensor], tuple[Tensor, Tensor]]:
    """A lifter's shape, and the same placed by the keypoints if it is not `placed` already."""

    def both(views: Views, rig: Tensor) -> tuple[Tensor, Tensor]:
        shape = lift(views, rig)
        return shape, shape if placed else baselines.place(shape, views)

    return both


def _items(group: str, rigs: Sequence[Rig]) -> list[Row]:
    """What is drawn in a bootstrap: a shape, or a drawn tree, whose poses are not independent."""
    if group == DRAWN:
        return [{"group": group, "category": "tree", "object": rig.name} for rig in rigs]
    return [
        {"group": group, "category": rig.category, "object": f"{rig.name}/{name}"}
        for rig in rigs
        for name in rig.objects
    ]


def _item_sizes(group: str, rigs: Sequence[Rig], views: int) -> list[int]:
    """How many views in a row are of each of `_items`."""
    if group == DRAWN:
        return [views * len(rig.objects) for rig in rigs]
    return [views for rig in rigs for _ in rig.objects]


def _to(views: Views, device: str) -> Views:
    return Views(*(field.to(device) for field in views))


def _parts(views: Views, size: int) -> list[Views]:
    fields = [field.split(size) for field in views]
    return [Views(*part) for part in zip(*fields, strict=True)]
