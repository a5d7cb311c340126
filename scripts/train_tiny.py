"""Train the bundled tiny model from nothing.

    python -m scripts.train_tiny --out OUT [--scale 0.01] [--threads 1] [--device cuda]

Four stages, each with a budget in steps: VAE, text encoder, transformer, decoder.  A finished
stage leaves OUT/parts/<stage>; the complete checkpoint is OUT/weights.  Run the same command
again to continue a run that was stopped: finished stages are skipped, the current one goes on
from its last checkpoint, and the result is the same.

The same command gives the same weights on the same machine with the same version of torch.
Another processor, thread count or GPU rounds differently and gives other, equally good weights.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import transformers

from scripts.tiny import decoder, pipelines, text_encoder, transformer, vae
from scripts.tiny.run import Run, SettingsDiffer, repeatable
from scripts.tiny.shortcuts import shortcuts

STAGES: dict[str, Callable[[Run], None]] = {
    "vae": vae.train,
    "text_encoder": text_encoder.train,
    "transformer": transformer.train,
    "decoder": decoder.train,
}


def train(run: Run, stages: Sequence[str] = tuple(STAGES)) -> None:
    """Train what is missing of the given stages, in order."""
    run.claim()
    with repeatable(run.threads, run.device), shortcuts():
        for name in stages:
            if run.part(name).exists():
                run.log(name, skipped="complete")
            else:
                STAGES[name](run)


def parse(arguments: Sequence[str]) -> Run:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.train_tiny",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the steps of every stage")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; part of the result")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    return Run(**vars(parser.parse_args(arguments)))


def main() -> None:
    run = parse(sys.argv[1:])
    transformers.utils.logging.disable_progress_bar()
    try:
        train(run)
    except SettingsDiffer as error:
        raise SystemExit(str(error)) from error
    run.log("assemble", folder=str(pipelines.assemble(run)))


if __name__ == "__main__":
    main()
