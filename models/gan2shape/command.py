# SPDX-License-Identifier: MIT
"""The command line that the GAN's training and the three steps share."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from models import checkpoint
from models import config as configs
from models.build import pick_device
from models.config import Config

# Config, device, what was saved or None for a new run, run folder.
Work = Callable[[Config, str, dict[str, Any] | None, Path], None]


def run(
    argv: list[str] | None, name: str, doc: str, state: str, keys: set[str], work: Work, wrote: str
) -> int:
    """Read the arguments, do `work`, say what it `wrote`; 2 after an error that is told.

    `state` is the file in the run folder that a resumed run goes on from, `keys` what it must hold.
    """
    parser = argparse.ArgumentParser(f"models.gan2shape.{name}", description=doc.split("\n")[0])
    parser.add_argument("--config", type=Path, help="TOML file")
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="SECTION.KEY=VALUE"
    )
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args(argv)
    try:
        device = pick_device(args.device)
        args.out.mkdir(parents=True, exist_ok=True)
        saved = None
        if args.resume:
            saved = checkpoint.load(args.out / state, device, keys)
            config = configs.update(Config(), saved["config"])
        else:
            if args.config is None:
                parser.error("--config is needed, or --resume")
            if (args.out / state).exists():
                raise ValueError(f"{args.out} holds a run already; go on with --resume")
            config = configs.load(args.config)
        work(configs.override(config, args.set), device, saved, args.out)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}: {wrote}")
    return 0
