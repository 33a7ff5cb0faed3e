# SPDX-License-Identifier: MIT
"""Score a trained network, or anybody's clouds, on held-out objects.

    python -m models.evaluate runs/NAME [--split test] [--protocol lmnet] [--set evaluate.seed=1]
    python -m models.evaluate --pred-dir CLOUDS [--set data.root=SET]

CLOUDS is a folder in the layout of models/clouds.py, in the frame of the set. Prints tables and
writes results.md, results.csv, results.json and pictures. With the run's own settings they go into
the run folder, else into a folder in it that is named after what differs (RUN/protocol=occnet), or
into --out: no answer takes the place of another question's. What is scored, and beside which
baselines, the kind of the network says: models/score.py for clouds, models/tasks/ for the others.
models.compare puts several results beside one another.
"""

import argparse
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

from models import checkpoint
from models import config as configs
from models.build import pick_device
from models.config import Config, ConfigError
from models.tasks import open_task
from pointloss.protocols import PROTOCOLS


def results_folder(args: argparse.Namespace, own: Config, asked: Config) -> Path:
    """Where the results go: see the head of this file. `own` is the run's config."""
    if args.out:
        return Path(args.out)
    if args.pred_dir:
        folder, own = args.pred_dir, replace(asked, evaluate=configs.Evaluate())
    else:  # a file of a run may be another than the one that the run itself has scored
        folder = args.run if args.run.is_dir() else args.run.with_suffix("")
    before = asdict(own)
    words = [
        f"{key}={value}"
        for section, table in asdict(asked).items()
        for key, value in table.items()
        if value != before[section][key]
    ]
    if args.samples:
        words.append(f"samples={args.samples}")
    return Path(folder) / re.sub(r"[^\w.,=+-]+", "_", ",".join(words))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m models.evaluate", description=__doc__.split("\n")[0]
    )
    parser.add_argument("run", nargs="?", type=Path, help="run folder or checkpoint file")
    parser.add_argument("--pred-dir", type=Path, help="score these clouds instead of a network's")
    parser.add_argument("--split", help="default: the config's evaluate.split")
    parser.add_argument("--protocol", help=f"one of {', '.join(PROTOCOLS)}")
    parser.add_argument("--views", type=int, help="K views or pairs of each object; 0: all")
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="SECTION.KEY=VALUE"
    )
    parser.add_argument(
        "--out", type=Path, help="folder for the results (default: RUN or PRED_DIR, see above)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--samples", type=int, default=0, metavar="K", help="draw K clouds an image: how sure is it"
    )
    parser.add_argument(
        "--save-clouds", action="store_true", help="write every scored cloud into clouds/, as PLY"
    )
    parser.add_argument("--commit", help="of this project, to be named in the results")
    args = parser.parse_args(argv)
    if (args.run is None) == (args.pred_dir is None):
        parser.error("give a run, or --pred-dir")
    try:
        device, config, state = pick_device(args.device), Config(), None
        if args.run:
            path = checkpoint.choose(args.run, "last")  # it says which file to score
            state = checkpoint.load(path, device, checkpoint.SCORED)
            config = configs.update(config, state["config"])
        own = config
        config = configs.override(config, args.set)
        if args.run and (wanted := checkpoint.choose(args.run, config.evaluate.checkpoint)) != path:
            path, state = wanted, checkpoint.load(wanted, device, checkpoint.SCORED)
        given = {"split": args.split, "views": args.views, "protocol": args.protocol}
        given = {key: value for key, value in given.items() if value is not None}
        config = configs.update(config, {"evaluate": given})
        out = results_folder(args, own, config)
        task = open_task(config, device)
        task.refuse_unfollowed(own.evaluate, given)
        if state is not None:
            checkpoint.require(state, path, task.keeps)
        asked = {"pred_dir": args.pred_dir, "samples": args.samples}
        asked["save_clouds"] = out / "clouds" if args.save_clouds else None
        asked = {key: value for key, value in asked.items() if value}
        if unknown := sorted(asked.keys() - task.options):
            flag = unknown[0].replace("_", "-")
            raise ConfigError(f"--{flag}: {config.network.name} has no use for it")
        text = task.evaluate(state, out, args.commit, **asked)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text)
    print(f"written: {out}/results.md, .csv, .json and pictures")
    if args.save_clouds:
        print(f"written: {asked['save_clouds']}/<synset>/<model>/<view>.ply")
    return 0


if __name__ == "__main__":
    sys.exit(main())
