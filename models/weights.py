# SPDX-License-Identifier: MIT
"""Trained weights in few bytes: what `models.predict --weights NAME` loads.

    python -m models.weights RUN NAME       models/weights/NAME from a run's best epoch

A folder holds weights.safetensors (network and mean shape; arrays of two and more dimensions in 16
bits; the settings that the network is built from), SHA256SUMS, the model card README.md, and
CREDITS.md with the objects that it was trained on. Reading it runs no code.
"""

import argparse
import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from models import checkpoint, files
from models import config as configs
from models.build import build_network, open_split
from models.config import Config
from models.data.manifest import credits_text, is_plain, read_manifest
from models.determinism import deterministic
from models.networks import NETWORKS
from models.networks.base import Network
from models.tables import read_results

FOLDER = Path(__file__).parent / "weights"
DEFAULT = "furniture"  # what models.predict takes if it is not told
FILE, SUMS, CARD, CREDITS = "weights.safetensors", "SHA256SUMS", "README.md", "CREDITS.md"
FORMAT = 1
KEY = "pointloss"  # one key of metadata: safetensors writes several in no fixed order
PART, MEAN = "network.", "mean_shape"
IMAGES = 16  # on which the rounding to 16 bits is measured


class Weights(NamedTuple):
    """A network that is ready to predict."""

    name: str
    config: Config  # network.* and data.image_size; of a run all of it
    network: Network  # in eval mode
    mean: Tensor  # [N, 3] mean shape of the training set


def names() -> list[str]:
    """The weights that lie in the repository."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{FILE}"))


def open_weights(name: str = DEFAULT, device: str = "cpu") -> Weights:
    """Load weights by their name in models/weights, or by the path of such a folder or of a run.

    Raises:
        ValueError: there are no such weights (the message lists those that are), or the file is
            damaged.
    """
    if is_plain(name) and (FOLDER / name / FILE).is_file():
        return read(FOLDER / name, device)
    path = Path(name)
    if (path / FILE).is_file():
        return read(path, device)
    if not path.exists():
        known = ", ".join(names()) or "none"
        raise ValueError(
            f"--weights: {name!r} is neither a run nor one of models/weights ({known}); "
            "python -m models.train makes a run"
        )
    return open_run(path, device)


def _load(run: Path, device: str = "cpu") -> dict[str, Any]:
    """The best epoch of a run of a point network; raises ValueError if there is none."""
    path = checkpoint.choose(run)
    state = checkpoint.load(path, device, {"config"})
    config = configs.update(Config(), state["config"])
    if config.network.name not in NETWORKS:
        raise ValueError(f"{run}: holds a {config.network.name}, which gives no cloud for an image")
    checkpoint.require(state, path, checkpoint.SCORED | {MEAN})
    return state


def open_run(run: Path, device: str = "cpu") -> Weights:
    """Load the best epoch of a run, called after its folder; raises ValueError if there is none."""
    state = _load(run, device)
    return _ready(run.resolve().name, configs.update(Config(), state["config"]), state, device)


def _ready(name: str, config: Config, state: dict[str, Any], device: str) -> Weights:
    network = build_network(config).to(device)
    checkpoint.restore(network, state, "network")
    return Weights(name, config, network.eval(), state["mean_shape"].cpu().float())


def read(folder: Path, device: str = "cpu") -> Weights:
    """Load a folder of weights. Raises ValueError if its file is not the one that was written."""
    path = folder / FILE
    try:
        told = (folder / SUMS).read_text(encoding="utf-8").split()
    except OSError:
        raise ValueError(f"{folder / SUMS}: missing, so {FILE} cannot be checked") from None
    if told != [hashlib.sha256(path.read_bytes()).hexdigest(), FILE]:
        raise ValueError(f"{path}: damaged: another sha256 than {SUMS} tells")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get(KEY, "{}"))
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path}: not readable: {error}") from None
    if header.get("format") != FORMAT:
        raise ValueError(f"{path}: not written by models.weights (format {FORMAT})")
    config = configs.update(Config(), header["config"])
    network = {k.removeprefix(PART): v for k, v in tensors.items() if k.startswith(PART)}
    return _ready(folder.name, config, {"network": network, "mean_shape": tensors[MEAN]}, device)


def half(tensor: Tensor) -> Tensor:
    """Matrices in 16 bits; biases and statistics stay, they are few and must be right."""
    tensor = tensor.detach().cpu().contiguous().clone()
    return tensor.half() if tensor.is_floating_point() and tensor.ndim > 1 else tensor


def shared(config: Config) -> Config:
    """The config without the paths of the machine that it ran on."""
    return configs.update(
        config, {"network": {"pretrained": "", "autoencoder": ""}, "data": {"root": ""}}
    )


def encode(config: Config, state: dict[str, Any]) -> bytes:
    """The file of weights. Raises ValueError if a weight does not fit into 16 bits."""
    tensors = {PART + key: half(value) for key, value in state["network"].items()}
    tensors[MEAN] = half(state["mean_shape"])
    for key, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(f"{key}: not finite in 16 bits")
    own = configs.to_dict(shared(config))
    needed = {"network": own["network"], "data": {"image_size": own["data"]["image_size"]}}
    return to_bytes(tensors, {KEY: json.dumps({"format": FORMAT, "config": needed})})


@torch.no_grad()
@deterministic()
def rounding(exact: Weights, rounded: Weights) -> tuple[float, float]:
    """Mean and largest move of a point by the rounding, on images of the evaluated split."""
    data = open_split(exact.config, exact.config.evaluate.split, images=False)
    step = max(1, len(data) // IMAGES)
    images = torch.stack([data[i].image for i in range(0, len(data), step)][:IMAGES])
    first, second = (w.network(images).points for w in (exact, rounded))
    moves = (first - second).norm(dim=-1)
    return moves.mean().item(), moves.max().item()


def scores_table(results: dict[str, Any], protocol: str) -> str:
    """CD and EMD of every method by one convention, means of the categories, as Markdown."""
    means = [row for row in results["rows"] if row["category"] == "mean"]
    rows = [row for row in means if row["protocol"] == protocol]
    columns = [column for column in ("CD", "EMD") if column in rows[0]]
    lines = [f"| method | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    lines += [
        f"| {row['method']} | {' | '.join(f'{row[column]:.2f}' for column in columns)} |"
        for row in rows
    ]
    return "\n".join(lines)


def training_objects(config: Config) -> list[dict[str, Any]]:
    """The manifest's records of the objects that the network was trained on."""
    data = open_split(config, config.data.train_split, images=False)
    known = {f"{r['synset']}/{r['model']}": r for r in read_manifest(data.root).get("objects", [])}
    if missing := [key for key in data.objects if key not in known]:
        raise ValueError(
            f"{data.root}/manifest.json: no licence of {missing[0]} and {len(missing) - 1} more "
            "training objects: their network cannot be shared"
        )
    return [known[key] for key in data.objects]


def card(
    name: str,
    weights: Weights,
    size: int,
    moves: tuple[float, float],
    objects: list[dict[str, Any]],
    results: dict[str, Any],
) -> str:
    """The model card: what it is, what it learned from, what it may be used for, how good it is."""
    options, side = weights.config.network, weights.config.data.image_size
    parameters = sum(p.numel() for p in weights.network.parameters())
    licences = Counter(record["licence"] for record in objects)
    categories = Counter(record["category"] for record in objects)
    sources = Counter(record["source"].get("package", "elsewhere") for record in objects)
    counts = (categories, licences, sources)
    listed = [", ".join(f"{n} {key}" for key, n in count.most_common()) for count in counts]
    tables = "\n\n".join(
        "\n".join([*(f"{line}  " for line in lines), "", scores_table(results, protocol)])
        for protocol, lines in results["conventions"].items()
    )
    header = "\n".join(f"{line}  " for line in results["header"])
    return f"""\
# {name}

One image of an object -> a cloud of {options.points} points: `{options.name}`, preset
`{options.preset}`, {parameters / 1e6:.1f} M parameters, images of {side} x {side} pixels.

```
python -m models.predict IMAGE --weights {name}
```

Object frame: y up, centre of the box 0, its longest side 1.

## File

`{FILE}`: {size / 1e6:.1f} MB, matrices in 16 bits, sha256 in `{SUMS}`. In images of the evaluated
split the rounding moves a point by {moves[0]:.1e} of the longest side in the mean, and by at most
{moves[1]:.1e}.

## Data

Renderings of {len(objects)} objects: {listed[0]}.

From {listed[2]}. A photo is further from these renderings than they are from each other.

## Licence

The weights are under this project's licence (MIT). The objects keep theirs: {listed[1]};
[{CREDITS}]({CREDITS}) names each of them.

## Scores

Means of the categories; lower is better. The network was scored before the rounding.

{header}

{tables}

## Settings

```toml
{configs.dumps(shared(weights.config)).strip()}
```
"""


def write(run: Path, name: str, folder: Path = FOLDER) -> Path:
    """Write the weights of a run's best epoch to folder/name, and return that.

    Raises:
        ValueError: the name is not plain or taken, the run is not there or not scored, or its
            objects have no licence on record.
    """
    if not is_plain(name):
        raise ValueError(f"NAME: expected letters, digits, '_' and '-', got {name!r}")
    out = folder / name
    if out.exists():
        raise ValueError(f"{out}: is there already; remove it first, or choose another name")
    state = _load(run)
    exact = _ready(name, configs.update(Config(), state["config"]), state, "cpu")
    results, objects = read_results(run), training_objects(exact.config)
    content = encode(exact.config, state)
    rounded = {key: half(value) for key, value in state["network"].items()}
    moves = rounding(exact, _ready(name, exact.config, state | {"network": rounded}, "cpu"))
    text = card(name, exact, len(content), moves, objects, results)
    out.mkdir(parents=True)
    with files.replacing(out / FILE) as file:
        file.write(content)
    files.write_text(out / SUMS, f"{hashlib.sha256(content).hexdigest()}  {FILE}\n")
    files.write_text(out / CREDITS, credits_text(objects))
    files.write_text(out / CARD, text)
    return out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models.weights", description=__doc__.split("\n")[0]
    )
    parser.add_argument("run", type=Path, help="run folder that models.evaluate has scored")
    parser.add_argument("name", help="of the new folder in models/weights")
    args = parser.parse_args(argv)
    try:
        out = write(args.run, args.name)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"written: {out}/{FILE}, {SUMS}, {CARD}, {CREDITS}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
